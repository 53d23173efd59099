package minion

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// unhealthy is the answer of a child that responds, but is not healthy. It does not hang.
type unhealthy struct{ answer string }

func (u unhealthy) Error() string { return u.answer }

// getHealth queries the health endpoint of a stock program on loopback.
func getHealth(ctx context.Context, port int, path string) error {
	url := "http://" + net.JoinHostPort(loopback, strconv.Itoa(port)) + path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	request.Close = true // a restarted child listens on the same port
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
