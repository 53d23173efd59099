import { results } from "./check";
import "./api.test";
import "./format.test";
import "./live.test";
import "./mesos.test";
import "./pod.test";
import "./router.test";
import "./table.test";
import "./text.test";
import "./usage.test";
import "./workloads.test";

Object.assign(window, { results: results() });
