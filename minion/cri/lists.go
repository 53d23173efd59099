package cri

import (
	"context"

	"github.com/docker/docker/api/types/container"
)

// Running returns how many containers and sandboxes run. It rarely asks the Engine.
func (s *Server) Running(ctx context.Context) (containers, sandboxes int, err error) {
	for kind, count := range map[string]*int{kindContainer: &containers, kindSandbox: &sandboxes} {
		list, err := s.view.list(ctx, kind, "", "")
		if err != nil {
			return 0, 0, err
		}
		for _, c := range list {
			if c.State.Status == container.StateRunning {
				*count++
			}
		}
	}
	return containers, sandboxes, nil
}
