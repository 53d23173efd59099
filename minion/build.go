package minion

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"

	"github.com/k8sm/k8sm/api"
)

// build tells builds of a program apart, by what its linker has noted of it (`go tool buildid`) and its version.
func build(program string) (string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("cannot tell which build of km this is: %w", err)
	}
	defer file.Close()
	h := sha256.New()
	h.Write([]byte(api.Version))
	if note := file.Section(".note.go.buildid"); note != nil {
		id, err := note.Data()
		if err != nil {
			return "", fmt.Errorf("cannot tell which build of km this is: %w", err)
		}
		h.Write(id)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
