package history

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/prometheus/common/model"
)

// endless writes a text again and again, until the client has enough or a number of bytes is written.
func endless(w io.Writer, text string, bytes int) {
	block := strings.Repeat(text, 1+(64<<10)/len(text))
	for n := 0; n < bytes; n += len(block) {
		if _, err := io.WriteString(w, block); err != nil {
			return
		}
	}
}

// fewSamples is the limit of samples of what misbehaves.
const fewSamples = 500

// misbehaving are targets of which nothing can be used.
var misbehaving = map[string]http.HandlerFunc{
	"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
	"hangs within a line": func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "apples 3\npea")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	},
	"trickles": func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "#")
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
	},
	"answers 1 GB":            func(w http.ResponseWriter, _ *http.Request) { endless(w, "# no metric\n", 1<<30) },
	"answers a line of 1 GB":  func(w http.ResponseWriter, _ *http.Request) { endless(w, "apples", 1<<30) },
	"answers 1 GB compressed": compressedGigabyte,
	"is not compressed as it says": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, "apples 3\n")
	},
	"answers too many series": func(w http.ResponseWriter, _ *http.Request) {
		for i := range fewSamples + 1 {
			_, _ = fmt.Fprintf(w, "a%d 1\n", i)
		}
	},
	"has too many labels": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "apples{")
		for i := range labelLimit + 1 {
			_, _ = fmt.Fprintf(w, "l%d=\"1\",", i)
		}
		_, _ = io.WriteString(w, "} 3\n")
	},
	"has long values": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "apples{color=%q} 3\n", strings.Repeat("x", labelValueLimit+1))
	},
	"has long names": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, "apples{%s=\"1\"} 3\n", strings.Repeat("x", labelNameLimit+1))
	},
	"is a page": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html>apples</html>")
	},
	"answers garbage": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte{1, 2, '{', 0xff, 0xfe, '"', '\n', 0x80})
	},
	"answers garbage for a protocol": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited")
		_, _ = w.Write([]byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3})
	},
	"answers 500": func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "apples 3\n", http.StatusInternalServerError)
	},
	"leads elsewhere": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) },
	"hangs up": func(w http.ResponseWriter, _ *http.Request) {
		connection, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = connection.Close()
		}
	},
}

// gigabyte is 1 GB as 1 MB: parts of 1 MB each, which can follow one another.
var gigabyte = sync.OnceValue(func() []byte {
	var part bytes.Buffer
	compressed := gzip.NewWriter(&part)
	endless(compressed, "# no metric\n", 1<<20)
	_ = compressed.Close()
	return bytes.Repeat(part.Bytes(), 1<<10)
})

// compressedGigabyte answers 1 GB as 1 MB.
func compressedGigabyte(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	_, _ = w.Write(gigabyte())
}

func TestTargetsThatMisbehaveHarmNoOther(t *testing.T) {
	gigabyte()
	good, bad := serveText(t, "apples 3\n"), map[string]*target{}
	cfg := Config{Jobs: []Job{good.job("good")}}
	for what, answer := range misbehaving {
		bad[what] = serve(t, answer)
		job := bad[what].job(what)
		job.SampleLimit = fewSamples
		job.ScrapeInterval, job.ScrapeTimeout = model.Duration(2*time.Second), model.Duration(2*time.Second) // enough to read up to the limits
		cfg.Jobs = append(cfg.Jobs, job)
	}
	peak := watchMemory(t)
	r := start(t, cfg)
	for what, target := range bad {
		r.eventually(func() error {
			if n := target.scrapes.Load(); n < 2 {
				return fmt.Errorf("what %s was scraped %d times", what, n)
			}
			return nil
		})
		r.becomes(fmt.Sprintf(`max_over_time(up{job=%q}[1m])`, what), 0)
		if value, err := r.value(fmt.Sprintf(`apples{job=%q}`, what)); err == nil {
			t.Errorf("what %s has the value %v", what, value)
		}
		r.tells("target=" + target.URL + "/metrics")
	}
	r.becomes(`max_over_time(up{job="good"}[1m])`, 1)
	r.becomes(`apples{job="good"}`, 3)
	told := slices.DeleteFunc(r.told(logrus.WarnLevel), func(line string) bool { return slow(line) && strings.Contains(line, good.URL) })
	if len(told) != len(bad) {
		t.Errorf("of %d targets it logs %d lines:\n%s", len(bad), len(told), strings.Join(told, "\n"))
	}
	if most := peak(); most > 512<<20 {
		t.Errorf("it takes %d MiB of memory", most>>20)
	} else {
		t.Logf("it takes up to %d MiB of memory", most>>20)
	}
}

// watchMemory samples the memory that is in use until the test ends. The function it returns returns the most.
func watchMemory(t *testing.T) func() uint64 {
	var most atomic.Uint64
	ctx, cancel := context.WithCancel(context.Background())
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for ctx.Err() == nil {
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			most.Store(max(most.Load(), stats.HeapAlloc))
			time.Sleep(20 * time.Millisecond)
		}
	})
	stop := func() uint64 { cancel(); watcher.Wait(); return most.Load() }
	t.Cleanup(func() { stop() })
	return stop
}

func TestATargetIsToldAgainWhenItAnswers(t *testing.T) {
	t.Parallel()
	broken := make(chan struct{})
	target := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-broken:
			_, _ = io.WriteString(w, "apples 3\n")
		default:
			http.Error(w, "no", http.StatusServiceUnavailable)
		}
	})
	job := target.job("fruit")
	job.ScrapeInterval, job.ScrapeTimeout = model.Duration(3*time.Second), model.Duration(3*time.Second) // it must not be too slow for any
	r := start(t, Config{Jobs: []Job{job}})
	r.tells("cannot scrape a target")
	close(broken)
	r.becomes("up", 1)
	r.eventually(func() error {
		for _, line := range r.told(logrus.InfoLevel) {
			if strings.Contains(line, "the target answers again") {
				return nil
			}
		}
		return fmt.Errorf("it does not say that the target answers again")
	})
	r.tells("cannot scrape a target")
}

func TestManyTargetsThatFailAreFewLines(t *testing.T) {
	t.Parallel()
	var addresses []string
	for i := range 100 {
		addresses = append(addresses, fmt.Sprintf("http://127.0.0.1:%d", 1+i)) // nothing listens there
	}
	r := newRig(t, Config{Jobs: []Job{jobOf("gone", addresses...)}})
	r.pace.watch = time.Hour // the test looks itself
	r.run().eventually(r.Ready)
	r.becomes(`count(up == 0)`, 100)
	for range 2 { // the second time there is nothing to tell
		if err := r.use(t.Context(), func(_ context.Context, s *session) error { s.tellTargets(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if told := r.told(logrus.WarnLevel); len(told) != maxTold+1 || !strings.HasPrefix(told[maxTold], "cannot scrape 90 more targets of the job") {
		t.Errorf("it logs %d lines:\n%s", len(told), strings.Join(told, "\n"))
	}
}

// texts are answers that random ones are made from.
var texts = []string{
	"# HELP apples how many\n# TYPE apples counter\napples{color=\"red\",size=\"big\"} 3 1700000000000\n",
	"# TYPE peas histogram\npeas_bucket{le=\"0.1\"} 3\npeas_bucket{le=\"+Inf\"} 7\npeas_sum 3e-9\npeas_count 7\n",
	"# TYPE nuts summary\nnuts{quantile=\"0.5\"} NaN\nnuts_sum -Inf\n# EOF\n",
	"{\"a name\", \"ünïcode\"=\"\\n\\\\\"} 0x1p-2 # {trace=\"x\"} 1 2\n",
}

// kinds are the content types of random answers.
var kinds = []string{
	"text/plain; version=0.0.4", "text/plain; version=1.0.0; escaping=allow-utf-8", "application/openmetrics-text; version=1.0.0",
	"application/openmetrics-text; version=0.0.1", "", "text/plain; version=",
	"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
}

// scramble changes a text at random.
func scramble(random *rand.Rand, text string) string {
	changed := []byte(strings.Repeat(text, 1+random.IntN(3)))
	for range random.IntN(8) {
		at := random.IntN(len(changed))
		switch random.IntN(4) {
		case 0:
			changed[at] = byte(random.IntN(256))
		case 1:
			changed = append(changed[:at:at], changed[min(len(changed), at+1+random.IntN(20)):]...)
		case 2:
			changed = append(changed[:at:at], append([]byte(texts[random.IntN(len(texts))]), changed[at:]...)...)
		default:
			changed[at] = "{}\"\\\n #,=e"[random.IntN(10)]
		}
		if len(changed) == 0 {
			break
		}
	}
	return string(changed)
}

// randomAnswers is how many answers are tried.
const randomAnswers = 300

func TestRandomAnswersHarmNothing(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	answers := make(chan [2]string)
	go func() {
		for range randomAnswers {
			answers <- [2]string{kinds[random.IntN(len(kinds))], scramble(random, texts[random.IntN(len(texts))])}
		}
		close(answers)
	}()
	good := serveText(t, "apples 3\n")
	bad := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		answer := <-answers
		w.Header().Set("Content-Type", answer[0])
		_, _ = io.WriteString(w, answer[1])
	})
	job := bad.job("bad")
	job.ScrapeInterval, job.ScrapeTimeout = model.Duration(2*time.Millisecond), model.Duration(2*time.Millisecond)
	r := start(t, Config{Jobs: []Job{good.job("good"), job}})
	r.eventually(func() error {
		if n := bad.scrapes.Load(); n < randomAnswers {
			return fmt.Errorf("it was scraped %d times", n)
		}
		return nil
	})
	r.becomes(`max_over_time(up{job="good"}[1m])`, 1)
	if code, body := r.get("/api/v1/series?match[]={__name__!=''}"); code != http.StatusOK {
		t.Errorf("the series: %d %.300s", code, body)
	}
	for _, line := range r.told(logrus.WarnLevel) {
		if !strings.Contains(line, "cannot scrape a target") && !strings.Contains(line, "Error on ingesting") {
			t.Errorf("it logs: %s", line)
		}
	}
}

func TestMoreSeriesThanAllowedAreRefused(t *testing.T) {
	t.Parallel()
	good := serveText(t, "apples 3\n")
	var text strings.Builder
	for i := range 300 {
		_, _ = fmt.Fprintf(&text, "a%d 1\n", i)
	}
	bad := serveText(t, text.String())
	dir := t.TempDir()
	r := start(t, Config{Dir: dir, MaxSeries: 150, Jobs: []Job{good.job("good")}})
	r.becomes(`up{job="good"}`, 1)
	r.stop()
	r = start(t, Config{Dir: dir, MaxSeries: 150, Jobs: []Job{good.job("good"), bad.job("more")}})
	r.tells("the metrics' history cannot work as it should error=the history has as many series as it may have, 150")
	r.tells("target=" + bad.URL)
	r.becomes(`up{job="good"}`, 1)
	r.becomes(`up{job="more"}`, 0)
	r.becomes(`count({__name__=~"a[0-9]+"}) or vector(0)`, 0)
	if n := r.current.store.db.Head().NumSeries(); n > 165 {
		t.Errorf("there are %d series", n)
	}
	r.quiet("as many series", "cannot scrape a target")
}

func TestConfigurationsThatAreWrongNameFileAndLine(t *testing.T) {
	t.Parallel()
	job := func(name string) Job { return newJob(name, nil) }
	for name, test := range map[string]struct {
		cfg  Config
		file string // of scrape configurations
		want string
	}{
		"no directory":         {Config{Dir: "-"}, "", "no directory"},
		"short":                {Config{Retention: time.Hour}, "", "at least 2h"},
		"small":                {Config{MaxSize: 1}, "", "at least 32 MiB"},
		"negative":             {Config{MinFree: -1}, "", "negative"},
		"often":                {Config{Interval: time.Millisecond}, "", "at least 1s"},
		"no rules":             {Config{RulesDir: "/nonexistent"}, "", "/nonexistent"},
		"no URL":               {Config{Alertmanagers: []string{"localhost:9093"}}, "", "https://alertmanager.example:9093"},
		"password":             {Config{Alertmanagers: []string{"ftp://u:secret@h"}}, "", `"ftp://u:xxxxx@h"`},
		"no name":              {Config{Jobs: []Job{job("")}}, "", "no name"},
		"twice":                {Config{Jobs: []Job{job("a"), job("a")}}, "", `two jobs of the name "a"`},
		"no file":              {Config{ScrapeConfigFile: "/nonexistent.yaml"}, "", "/nonexistent.yaml"},
		"not YAML":             {Config{}, "scrape_configs:\n- job_name: 'a\n", "scrape.yaml:"},
		"unknown field":        {Config{}, "scrape_configs:\n- job_name: a\n  scrape_intervall: 1m\n", "scrape.yaml:3: field scrape_intervall not found"},
		"unknown key":          {Config{}, "rule_files: []\n", "scrape.yaml:1: field rule_files not found"},
		"wrong duration":       {Config{}, "scrape_configs:\n- job_name: a\n- job_name: b\n  scrape_interval: soon\n", "scrape.yaml:3: "},
		"no job name":          {Config{}, "scrape_configs:\n- job_name: a\n\n- scrape_interval: 1m\n", "scrape.yaml:4: job_name is empty"},
		"timeout too long":     {Config{}, "scrape_configs:\n- job_name: a\n- job_name: b\n  scrape_interval: 1s\n  scrape_timeout: 2s\n", "scrape.yaml:3: scrape timeout greater"},
		"name of ours":         {Config{Jobs: []Job{job("a")}}, "scrape_configs:\n- job_name: a\n", `scrape.yaml:2: there are two jobs of the name "a"`},
		"log of failures":      {Config{}, "scrape_configs:\n- job_name: a\n  scrape_failure_log_file: /x\n", "scrape.yaml:2: scrape_failure_log_file cannot be used"},
		"empty item":           {Config{}, "scrape_configs:\n-\n", "scrape.yaml:2: the scrape configuration is empty"},
		"wrong relabel":        {Config{}, "scrape_configs:\n- job_name: a\n  relabel_configs: [{regex: '('}]\n", "scrape.yaml:2: "},
		"discovery unknown":    {Config{}, "scrape_configs:\n- job_name: a\n  ec2_sd_configs: [{}]\n", "scrape.yaml:3: field ec2_sd_configs not found"},
		"too large":            {Config{}, "#" + strings.Repeat("x", maxFile), "larger than 4 MiB"},
		"a list":               {Config{}, "- a\n", "scrape.yaml:1: "},
		"not even text":        {Config{}, "\x00\x01", "scrape.yaml"},
		"target with a scheme": {Config{}, "scrape_configs:\n- job_name: a\n  static_configs: [{targets: ['http://a:1']}]\n", "scrape.yaml:2: "},
	} {
		t.Run(name, func(t *testing.T) {
			switch test.cfg.Dir {
			case "":
				test.cfg.Dir = t.TempDir()
			case "-":
				test.cfg.Dir = ""
			}
			if test.file != "" {
				test.cfg.ScrapeConfigFile = write(t, filepath.Join(t.TempDir(), "scrape.yaml"), test.file)
			}
			err := test.cfg.Validate()
			if err == nil {
				_, err = New(test.cfg)
				t.Fatalf("it is valid; New says %v", err)
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func FuzzScrapeConfigFile(f *testing.F) {
	f.Add("scrape_configs:\n- job_name: a\n  static_configs: [{targets: [a]}]\n")
	f.Add("scrape_configs: &a\n- *a\n")
	f.Add("scrape_configs: {a: b}\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "scrape.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Config{Dir: "x", ScrapeConfigFile: file}.Validate()
		if err != nil && !strings.Contains(err.Error(), file) {
			t.Errorf("the error does not name the file: %v", err)
		}
	})
}
