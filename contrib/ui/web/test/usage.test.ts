import { linesOf, machinesUse } from "../src/usage";
import { limitsOf } from "../src/usagecharts";
import { same, test } from "./check";

const span = { seconds: 120, step: 30 };

test("small lines of all pods end at the same time, with gaps where nothing was measured", () => {
  const lines = linesOf([
    { metric: { pod: "a" }, values: [[1000, "1"], [1030, "2"], [1090, "4"], [1120, "NaN"]] },
    { metric: { pod: "young" }, values: [[1090, "0.5"]] }, { metric: { pod: "none" }, values: [] },
  ], span);
  same(lines.get("a"), [1, 2, null, 4, null]);
  same(lines.get("young"), [null, null, null, 0.5, null]);
  same(lines.get("none"), [null, null, null, null, null]);
  same([...linesOf([], span)], []);
});

test("a limit is shown if all containers have one", () => {
  const pod = (...resources: any[]) => ({ metadata: { name: "a", uid: "u" }, spec: { containers: resources.map((r) => ({ resources: r })) } });
  same(limitsOf(pod({ requests: { cpu: "100m" }, limits: { cpu: "1" } }, { requests: { cpu: "50m" }, limits: { cpu: "500m" } }), "cpu").map((l) => [l.name, l.value.toFixed(2)]), [["requested", "0.15"], ["limit", "1.50"]]);
  same(limitsOf(pod({ limits: { cpu: "1" } }, {}), "cpu"), []);
  same(limitsOf(pod({ limits: { cpu: "1" } }), "memory"), []);
});

test("a machine with several nodes is counted once", () => {
  const node = (name: string, bootID?: string) => ({ metadata: { name, uid: name }, status: { nodeInfo: { bootID } } });
  const uses = (name: string) => ({ metadata: { name }, usage: { cpu: "500m", memory: "1Gi" } });
  const nodes = [node("a", "1"), node("a-5052", "1"), node("b", "2"), node("c")];
  same(machinesUse(nodes, nodes.map((n) => uses(n.metadata.name))), { cpu: 1.5, memory: 3 * 2 ** 30 });
  same(machinesUse([], [uses("unknown")]), { cpu: 0.5, memory: 2 ** 30 });
});
