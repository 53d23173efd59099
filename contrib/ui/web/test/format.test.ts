import { age, bytes, command, count, cpus, quantity, span, tone } from "../src/format";
import { named, unit } from "../src/prom";
import { same, table, test } from "./check";

test("times are written as kubectl writes them", () => {
  table(span, [[-3, "0s"], [0, "0s"], [59.9, "59s"], [119, "119s"], [120, "2m"], [121, "2m1s"], [599, "9m59s"], [600, "10m"], [10799, "179m"], [10800, "3h"], [11100, "3h5m"],
    [28800, "8h"], [172799, "47h"], [172800, "2d"], [187200, "2d4h"], [691200, "8d"], [63072000, "2y"]]);
  same(age(undefined, 0), "–");
  same(age("2026-12-01T10:00:00Z", Date.parse("2026-12-01T10:02:05Z")), "2m5s");
});

test("quantities are read as Kubernetes means them", () => {
  table(quantity as (t: string | undefined) => number, [[undefined, 0], ["250m", 0.25], ["1", 1], ["1.5Gi", 1.5 * 2 ** 30], ["64Mi", 64 * 2 ** 20], ["2k", 2000], ["1e3", 1000], ["12E", 12e18]]);
  same(Number.isNaN(quantity("lots")), true);
});

test("amounts have a unit that fits", () => {
  table(bytes, [[0, "0 B"], [1023, "1023 B"], [1024, "1 KiB"], [1.5 * 2 ** 20, "1.5 MiB"], [12.34 * 2 ** 30, "12.3 GiB"], [100 * 2 ** 30, "100 GiB"], [2 ** 41, "2 TiB"]]);
  table(cpus, [[0, "0"], [0.0003, "<1m"], [0.004, "4m"], [0.0996, "100m"], [0.1, "0.1"], [1, "1"], [2.25, "2.25"], [64, "64"], [123.4, "123"]]);
  same(count(1, "pod"), "1 pod");
  same(count(5000, "pod"), "5,000 pods");
  same(count(2, "policy", "policies"), "2 policies");
});

test("a state that is bad never looks good", () => {
  table(tone, [["Running", "ok"], ["Ready", "ok"], ["NotReady", "bad"], ["CrashLoopBackOff", "bad"], ["ErrImageNeverPull", "bad"], ["OOMKilled", "bad"], ["Pending", "busy"], ["Init:0/1", "busy"],
    ["Init:Error", "bad"], ["Completed", "done"], ["Terminating", "warn"], ["Ready,SchedulingDisabled", "warn"], ["Unknown", "bad"], ["something else", "none"]]);
});

test("copied commands are quoted for a shell", () => {
  same(command("km", "kubectl", "get", "pod", "a b", "it's"), `km kubectl get pod 'a b' 'it'\\''s'`);
});

test("series have names and units that people read", () => {
  same(named({ __name__: "up", job: "kubelet" }), 'up{job="kubelet"}');
  same(named({ node: "a" }, "{{ node }} {{gone}}"), "a");
  same([unit("Bps", 2048), unit("percentunit", 0.5), unit("s", 0.02), unit("cpus", 0.02), unit("bytes", NaN), unit(undefined, 1234)], ["2 KiB/s", "50 %", "20 ms", "20m", "–", "1,234"]);
});
