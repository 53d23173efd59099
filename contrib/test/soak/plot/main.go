// Command plot draws the samples of a soak, a CSV file, as a PNG: memory, descriptors, goroutines, rules and Docker's objects over time.
package main

import (
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"image/color"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/palette/brewer"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// panels are the diagrams, from top to bottom. A name that ends in a space stands for all values that begin with it.
var panels = []struct {
	title string
	names []string
}{
	{"Memory, PSS in MB", []string{"memory "}},
	{"File descriptors", []string{"descriptors "}},
	{"Goroutines", []string{"goroutines "}},
	{"Pods, containers, links", []string{"pods", "containers", "links"}},
	{"Rules: iptables, and lines of nft", []string{"iptables rules", "nft lines"}},
	{"etcd, MB", []string{"etcd in use", "etcd file"}},
}

func main() {
	from := flag.String("samples", "build/soak/samples.csv", "the samples, a `file`")
	to := flag.String("out", "build/soak/soak.png", "the PNG `file` to write")
	flag.Parse()
	if err := run(*from, *to); err != nil {
		fmt.Fprintf(os.Stderr, "plot: %v\n", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	all, err := read(file)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	const width, height = 22 * vg.Centimeter, 7 * vg.Centimeter
	canvas := vgimg.New(width, height*vg.Length(len(panels)))
	page := draw.New(canvas)
	for i, panel := range panels {
		p, err := diagram(panel.title, panel.names, all)
		if err != nil {
			return fmt.Errorf("%s: %w", panel.title, err)
		}
		top := height * vg.Length(len(panels)-i)
		p.Draw(draw.Crop(page, 0, 0, top-height, top-height*vg.Length(len(panels))))
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = vgimg.PngCanvas{Canvas: canvas}.WriteTo(out)
	return errors.Join(err, out.Close())
}

// read returns the points of each value, in minutes.
func read(from io.Reader) (map[string]plotter.XYs, error) {
	r := csv.NewReader(from)
	r.FieldsPerRecord = 4
	lines, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(lines) < 2 {
		return nil, errors.New("there are no samples")
	}
	all := map[string]plotter.XYs{}
	for _, line := range lines[1:] {
		seconds, err := strconv.ParseFloat(line[0], 64)
		if err != nil {
			return nil, err
		}
		value, err := strconv.ParseFloat(line[3], 64)
		if err != nil {
			return nil, err
		}
		all[line[2]] = append(all[line[2]], plotter.XY{X: seconds / 60, Y: value})
	}
	return all, nil
}

// diagram draws the values with these names, a line each.
func diagram(title string, names []string, all map[string]plotter.XYs) (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Min = title, "minutes", 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Add(plotter.NewGrid())
	colors, err := brewer.GetPalette(brewer.TypeQualitative, "Paired", 12)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		group := slices.ContainsFunc(names, func(wanted string) bool {
			return name == wanted || strings.HasSuffix(wanted, " ") && strings.HasPrefix(name, wanted)
		})
		if !group {
			continue
		}
		line, err := plotter.NewLine(all[name])
		if err != nil {
			return nil, err
		}
		line.Color = colors.Colors()[n%len(colors.Colors())].(color.Color)
		line.Width = vg.Points(1.5)
		p.Add(line)
		_, short, several := strings.Cut(name, " ")
		if !several || len(names) > 1 {
			short = name
		}
		p.Legend.Add(short, line)
		n++
	}
	return p, nil
}
