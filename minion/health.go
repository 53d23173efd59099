package minion

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// unhealthy is the answer of a child that does not hang.
type unhealthy struct{ answer string }

func (u unhealthy) Error() string { return u.answer }

// getHealth asks the health endpoint of a stock program on loopback.
func getHealth(ctx context.Context, port int, path string) error {
	url := "http://" + net.JoinHostPort(loopback, strconv.Itoa(port)) + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Close = true // the next child listens there too
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusOK {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(response.Body, 500))
	return unhealthy{fmt.Sprintf("%s: %s %s", url, response.Status, body)}
}
