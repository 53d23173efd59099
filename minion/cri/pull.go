package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/pkg/jsonmessage"
	"github.com/sirupsen/logrus"
)

const (
	// pullTimeout is how long a pull may make no progress. The kubelet sets no timeout for pulls, and with serializeImagePulls one
	// stalled registry would block all other pulls.
	pullTimeout = 5 * time.Minute
	// pullReport is the interval at which the progress of a long pull is logged.
	pullReport = 15 * time.Second
)

// errStalled ends a pull that makes no progress.
var errStalled = errors.New("the pull makes no progress")

// pull pulls an image and waits for the end: the Engine reports failures in its progress stream.
func (s *Server) pull(ctx context.Context, name string, options image.PullOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(s.cfg.PullTimeout, func() { cancel(errStalled) })
	defer stalled.Stop()
	downloaded := pulledBytes{}
	err := s.followPull(ctx, name, options, downloaded, func() { stalled.Reset(s.cfg.PullTimeout) })
	if err != nil && context.Cause(ctx) == errStalled {
		return fmt.Errorf("gave up after no progress for %s, downloaded %s", s.cfg.PullTimeout, downloaded)
	}
	return err
}

// followPull keeps downloaded current, and calls alive at each progress.
func (s *Server) followPull(ctx context.Context, name string, options image.PullOptions, downloaded pulledBytes, alive func()) error {
	progress, err := s.docker.ImagePull(ctx, name, options)
	if err != nil {
		return err
	}
	defer progress.Close()
	log, told := s.log.WithField("image", name), time.Now()
	return readProgress(progress, func(m jsonmessage.JSONMessage) {
		alive()
		downloaded.note(m)
		switch {
		case m.Progress == nil:
			log.Debug("pull: ", m.ID, " ", m.Status)
		case time.Since(told) >= pullReport:
			told = time.Now()
			log.WithFields(logrus.Fields{"downloaded": downloaded.String()}).Info("pulling an image")
		}
	})
}

// pulledBytes is the progress of each layer of a pull, by id.
type pulledBytes map[string]jsonmessage.JSONProgress

func (p pulledBytes) note(m jsonmessage.JSONMessage) {
	if m.Status == "Downloading" && m.Progress != nil {
		p[m.ID] = *m.Progress
	}
}

// String returns text such as "12.5 of 80.0 MB in 3 layers".
func (p pulledBytes) String() string {
	var current, total int64
	for _, layer := range p {
		current, total = current+layer.Current, total+layer.Total
	}
	return fmt.Sprintf("%.1f of %.1f MB in %d layers", float64(current)/1e6, float64(total)/1e6, len(p))
}

// readProgress reads the Engine's progress to its end, and returns the failure that it reports.
func readProgress(progress io.Reader, each func(jsonmessage.JSONMessage)) error {
	for decoder := json.NewDecoder(progress); ; {
		var m jsonmessage.JSONMessage
		if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if m.Error != nil {
			return m.Error
		}
		each(m)
	}
}
