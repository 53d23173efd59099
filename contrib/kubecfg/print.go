package kubecfg

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"unicode"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/k8sm/k8sm/api/v1beta1"
)

// printer prints an object or a list, which it gets as JSON.
type printer func(w io.Writer, object []byte) error

// printer returns the one that the flags ask for.
func (k *kubecfg) printer() (printer, error) {
	switch {
	case k.json:
		return printJSON, nil
	case k.yaml:
		return printYAML, nil
	case k.templateFile != "":
		text, err := os.ReadFile(k.templateFile)
		if err != nil {
			return nil, sayf("Error reading template %s, %v", k.templateFile, err)
		}
		return templatePrinter(string(text))
	case k.template != "":
		return templatePrinter(k.template)
	}
	return printTable, nil
}

// printJSON prints an object as it came. JSON has no characters that control a terminal.
func printJSON(w io.Writer, object []byte) error {
	if !json.Valid(object) {
		return errors.New("it is not JSON")
	}
	_, err := w.Write(bytes.TrimSpace(object))
	return err
}

func templatePrinter(text string) (printer, error) {
	t, err := template.New("output").Parse(text)
	if err != nil {
		return nil, sayf("Error parsing template %s, %v", text, err)
	}
	return func(w io.Writer, object []byte) error {
		d := json.NewDecoder(bytes.NewReader(object))
		d.UseNumber()
		var values any
		if err := d.Decode(&values); err != nil {
			return err
		}
		return t.Execute(w, values)
	}, nil
}

// visible makes text that a server sent safe to print: what would control a terminal, or end a cell or a line, is shown as in Go.
// The characters to keep are kept.
func visible(text, keep string) string {
	var out strings.Builder
	for _, r := range text {
		if unicode.IsGraphic(r) || strings.ContainsRune(keep, r) {
			out.WriteRune(r)
		} else {
			out.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return out.String()
}

// table is what people read.
type table struct {
	columns []string
	rows    [][]string
}

func (t *table) print(w io.Writer) error {
	columns := tabwriter.NewWriter(w, 20, 5, 3, ' ', 0)
	lines := make([]string, len(t.columns))
	for i := range lines {
		lines[i] = "----------"
	}
	for _, row := range append([][]string{t.columns, lines}, t.rows...) {
		for i := range row {
			row[i] = visible(row[i], "")
		}
		if _, err := fmt.Fprintln(columns, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return columns.Flush()
}

// printTable prints an object or the items of a list, a line each.
func printTable(w io.Writer, object []byte) error {
	var o struct {
		v1beta1.Meta
		Items json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return err
	}
	kind, list := strings.CutSuffix(o.Kind, "List")
	if list {
		object = o.Items
	} else {
		object = bytes.Join([][]byte{{'['}, object, {']'}}, nil)
	}
	tabulate, ok := tables[kind]
	if !ok {
		return fmt.Errorf("unknown kind %q", o.Kind)
	}
	t, err := tabulate(object)
	if err != nil {
		return err
	}
	return t.print(w)
}

// tables make tables of lists of objects, by the objects' kinds.
var tables = map[string]func(items []byte) (table, error){
	"Pod": tabulated([]string{"ID", "Image(s)", "Host", "Labels", "Status"}, func(p v1beta1.Pod) []string {
		return []string{p.ID, images(p.DesiredState.Manifest), host(p.CurrentState), pairs(p.Labels), p.CurrentState.Status}
	}),
	"ReplicationController": tabulated([]string{"ID", "Image(s)", "Selector", "Replicas"}, func(c v1beta1.ReplicationController) []string {
		return []string{c.ID, images(c.DesiredState.PodTemplate.DesiredState.Manifest), pairs(c.DesiredState.ReplicaSelector), fmt.Sprint(c.DesiredState.Replicas)}
	}),
	"Service": tabulated([]string{"ID", "Labels", "Selector", "IP", "Port"}, func(s v1beta1.Service) []string {
		return []string{s.ID, pairs(s.Labels), pairs(s.Selector), s.PortalIP, fmt.Sprint(s.Port)}
	}),
	"Endpoints": tabulated([]string{"ID", "Endpoints"}, func(e v1beta1.Endpoints) []string { return []string{e.ID, strings.Join(e.Endpoints, ",")} }),
	"Minion":    tabulated([]string{"Minion identifier"}, func(m v1beta1.Minion) []string { return []string{m.ID} }),
	"Status":    tabulated([]string{"Status"}, func(s v1beta1.Status) []string { return []string{s.Status} }),
	"Event": tabulated([]string{"Name", "Kind", "Status", "Reason", "Message"}, func(e v1beta1.Event) []string {
		return []string{e.InvolvedObject.Name, e.InvolvedObject.Kind, e.Status, e.Reason, e.Message}
	}),
}

func tabulated[T any](columns []string, row func(T) []string) func([]byte) (table, error) {
	return func(items []byte) (table, error) {
		t := table{columns: columns}
		var list []T
		if len(items) > 0 {
			if err := json.Unmarshal(items, &list); err != nil {
				return t, err
			}
		}
		for _, one := range list {
			t.rows = append(t.rows, row(one))
		}
		return t, nil
	}
}

func images(m v1beta1.Manifest) string {
	var names []string
	for _, c := range m.Containers {
		names = append(names, c.Image)
	}
	return strings.Join(names, ",")
}

func host(s v1beta1.PodState) string {
	if s.Host == "" && s.HostIP == "" {
		return "<unassigned>"
	}
	return s.Host + "/" + s.HostIP
}

func pairs(set map[string]string) string { return labels.Set(set).String() }

// printYAML prints an object as YAML, as the program of then did: without kind and apiVersion, with the resource version as text,
// and empty lists where a pod has no volumes or containers.
func printYAML(w io.Writer, object []byte) error {
	d := json.NewDecoder(bytes.NewReader(object))
	d.UseNumber()
	node, err := yamlNode(d)
	if err != nil {
		return err
	}
	asThen(node)
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(node); err != nil {
		return err
	}
	return e.Close()
}

// yamlNode reads a value of JSON. Fields keep their order.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	scalar := func(tag, value string) (*yaml.Node, error) {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value}, nil
	}
	switch value := token.(type) {
	case nil:
		return scalar("!!null", "null")
	case bool:
		return scalar("!!bool", fmt.Sprint(value))
	case json.Number:
		return scalar("", value.String())
	case string: // with quotes where one that reads YAML 1.1 needs them
		node := &yaml.Node{}
		return node, node.Encode(value)
	}
	node := &yaml.Node{Kind: yaml.SequenceNode}
	if token == json.Delim('{') {
		node.Kind = yaml.MappingNode
	}
	for d.More() {
		child, err := yamlNode(d) // of an object: its fields' names and values in turn
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, child)
	}
	_, err = d.Token() // the end
	return node, err
}

// asThen changes an object, or a list and the objects in it.
func asThen(object *yaml.Node) {
	if object.Kind != yaml.MappingNode {
		return
	}
	var kept []*yaml.Node
	for i := 0; i+1 < len(object.Content); i += 2 {
		key, value := object.Content[i], object.Content[i+1]
		switch key.Value {
		case "kind", "apiVersion":
			continue
		case "resourceVersion":
			value.Tag = "!!str"
		case "creationTimestamp":
			if value.Tag == "!!str" {
				value.Tag, value.Style = "!!timestamp", 0
			}
		case "items", "minions":
			noNull(value)
			for _, item := range value.Content {
				asThen(item)
			}
		case "desiredState", "currentState":
			emptyLists(value)
		}
		kept = append(kept, key, value)
	}
	object.Content = kept
}

// emptyLists makes lists of a manifest's that are null empty ones.
func emptyLists(node *yaml.Node) {
	for i, child := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && (child.Value == "volumes" || child.Value == "containers") {
			noNull(node.Content[i+1])
		}
		emptyLists(child)
	}
}

func noNull(list *yaml.Node) {
	if list.Tag == "!!null" {
		*list = yaml.Node{Kind: yaml.SequenceNode}
	}
}
