// Package configfile sets a command's flags from a YAML file with the flags' names as keys. It knows nothing about their meaning.
//
// Start reading at Apply.
package configfile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Flag is the name of the flag that names the file.
const Flag = "config"

// Apply sets the flags that the file names, unless the command line has set them. Values are as on the command line, or a list
// for a flag that takes several. Unknown keys, duplicate keys and invalid values are errors that name the key. Flags set before
// the error stay set.
func Apply(fs *pflag.FlagSet, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read the configuration: %w", err)
	}
	settings, err := parse(data)
	if err != nil {
		return fmt.Errorf("cannot read the configuration %s: %w", file, err)
	}
	if unknown := unknownKeys(fs, settings); len(unknown) > 0 {
		return fmt.Errorf("cannot use the configuration %s: no such flag: %s", file, strings.Join(unknown, ", "))
	}
	set := map[*pflag.Flag]string{}
	for key, value := range settings {
		flag := fs.Lookup(key)
		if other, twice := set[flag]; twice {
			names := []string{key, other}
			slices.Sort(names)
			return fmt.Errorf("cannot use the configuration %s: %s are names of one flag: give one", file, strings.Join(names, " and "))
		}
		set[flag] = key
		if flag.Changed {
			continue
		}
		if err := assign(fs, flag, value); err != nil {
			return fmt.Errorf("cannot use the configuration %s: %s: %w", file, key, err)
		}
	}
	return nil
}

// parse returns the values with numbers as they are written.
func parse(data []byte) (map[string]any, error) {
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		// The parser's message can have several lines; join them.
		return nil, fmt.Errorf("%s", strings.Join(strings.Fields(err.Error()), " "))
	}
	var settings map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&settings); err != nil {
		return nil, fmt.Errorf("it is not a map of flags to values: %w", err)
	}
	return settings, nil
}

// unknownKeys returns the keys that a file cannot set, sorted.
func unknownKeys(fs *pflag.FlagSet, settings map[string]any) []string {
	var unknown []string
	for key := range settings {
		flag := fs.Lookup(key)
		if flag == nil || flag.Hidden || key == Flag || key == "help" {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}

func assign(fs *pflag.FlagSet, flag *pflag.Flag, value any) error {
	list, several := value.([]any)
	if !several {
		text, err := scalar(value)
		if err != nil {
			return err
		}
		return fs.Set(flag.Name, text)
	}
	slice, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return fmt.Errorf("it takes one value, not a list")
	}
	texts := make([]string, len(list))
	for i, element := range list {
		text, err := scalar(element)
		if err != nil {
			return err
		}
		texts[i] = text
	}
	flag.Changed = true
	return slice.Replace(texts)
}

func scalar(value any) (string, error) {
	switch value.(type) {
	case string, bool, json.Number:
		return fmt.Sprint(value), nil
	case nil:
		return "", fmt.Errorf("it has no value")
	}
	return "", fmt.Errorf("it takes a string, a number, true or false")
}
