package mesos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/mesos/mesos-go/api/v1/lib/encoding/codecs"
	mesosmaster "github.com/mesos/mesos-go/api/v1/lib/master"
)

const operatorPath = "/api/v1" // of a master's v1 operator API

// operate makes a call of the operator API (https://mesos.apache.org/documentation/latest/operator-http-api/) at the master of a
// scheduler endpoint. The caller closes the body of the response, whose status is 200.
func (m *Master) operate(ctx context.Context, endpoint string, call *mesosmaster.Call) (*http.Response, error) {
	body, err := call.Marshal()
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(endpoint, schedulerPath)+operatorPath, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", string(codecs.MediaTypeProtobuf))
	request.Header.Set("Accept", string(codecs.MediaTypeProtobuf))
	m.authenticate(request)
	response, err := m.caller.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusTemporaryRedirect {
		return nil, redirected{errors.New("it does not lead"), response.Header.Get("Location")}
	}
	said, err := io.ReadAll(io.LimitReader(response.Body, 200))
	if err != nil {
		return nil, err
	}
	return nil, operatorRefusal(response.Status, call.Type, said)
}

// operatorRefusal explains an answer that is no success.
func operatorRefusal(status string, call mesosmaster.Call_Type, answer []byte) error {
	said := strings.TrimSpace(string(answer))
	if strings.HasPrefix(status, "401") || strings.HasPrefix(status, "403") {
		said += ": let the principal of --mesos-principal use the operator API (its secret must be in --credentials of the master)"
	}
	return fmt.Errorf("the master answers %s to %s: %s", status, call, said)
}
