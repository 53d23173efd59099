package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/k8sm/k8sm/contrib/test/power/notes"
)

// write writes numbered lines to the volume and to the log until ctx ends. A line is acknowledged when it is on the volume's disk.
func write(ctx context.Context) error {
	present, err := numbersIn(lines)
	if err != nil {
		return err
	}
	last := 0
	for number := range present {
		last = max(last, number)
	}
	file, err := os.OpenFile(lines, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString("\n"); err != nil { // ends a line that the power's end cut off
		return err
	}
	told, err := notes.Open(filepath.Join(host, "notes"))
	if err != nil {
		return err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for number := last + 1; ; number++ {
		if _, err := fmt.Fprintf(file, "%d.\n", number); err != nil {
			return err
		}
		if err := told.Acknowledge(notes.Volume, number); err != nil {
			return err
		}
		fmt.Printf("%d.\n", number)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// numbersIn returns how often each line's number is in a file. A line that has no full stop was cut off.
func numbersIn(path string) (map[int]int, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return numbers(bufio.NewScanner(file))
}

func numbers(text *bufio.Scanner) (map[int]int, error) {
	present := map[int]int{}
	for text.Scan() {
		if line := text.Text(); len(line) > 1 && line[len(line)-1] == '.' {
			if number, err := strconv.Atoi(line[:len(line)-1]); err == nil {
				present[number]++
			}
		}
	}
	return present, text.Err()
}

// absent returns what is not present of the numbers up to last.
func absent(present map[int]int, last int) (missing []int) {
	for number := 1; number <= last; number++ {
		if present[number] == 0 {
			missing = append(missing, number)
		}
	}
	return missing
}
