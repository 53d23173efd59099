// The pages, each a file of its own in pages/. A page with nav is in the navigation, in this order.
//
// All of them are in the first script: a page that was open needs no more of it, whatever becomes of the network or of km meanwhile.
import type { FunctionComponent } from "preact";
import type { IconName } from "./icons";
import Create from "./pages/create";
import Events from "./pages/events";
import Kinds from "./pages/kinds";
import Logs from "./pages/logs";
import Mesos from "./pages/mesos";
import Metrics from "./pages/metrics";
import Node from "./pages/node";
import Nodes from "./pages/nodes";
import Object from "./pages/object";
import Offers from "./pages/offers";
import Overview from "./pages/overview";
import Pod from "./pages/pod";
import Pods from "./pages/pods";
import Queue from "./pages/queue";
import Resource from "./pages/resource";
import Resources from "./pages/resources";
import Workload from "./pages/workload";
import Workloads from "./pages/workloads";

export interface PageProps { params: Record<string, string> }

export interface Page {
  /** path is a pattern such as /pods/:ns/:name. */
  path: string;
  title: string;
  show: FunctionComponent<PageProps>;
  nav?: {
    group: "" | "Mesos" | "Kubernetes" | "Cluster" | "Observe";
    icon: IconName;
    /** key follows g. */
    key?: string;
  };
  /** global pages are about no namespace. */
  global?: boolean;
}

export const pages: Page[] = [
  { path: "/", title: "Overview", show: Overview, nav: { group: "", icon: "overview", key: "o" }, global: true },
  { path: "/mesos", title: "Mesos", show: Mesos, nav: { group: "Mesos", icon: "mesos", key: "m" }, global: true },
  { path: "/nodes", title: "Nodes", show: Nodes, nav: { group: "Mesos", icon: "nodes", key: "n" }, global: true },
  { path: "/nodes/:agent", title: "Agent and node", show: Node, global: true },
  { path: "/offers", title: "Offers", show: Offers, nav: { group: "Mesos", icon: "offers", key: "f" }, global: true },
  { path: "/queue", title: "Queue", show: Queue, nav: { group: "Mesos", icon: "queue", key: "t" } },
  { path: "/workloads", title: "Workloads", show: Workloads, nav: { group: "Kubernetes", icon: "workloads", key: "w" } },
  { path: "/workloads/:plural/:ns/:name", title: "Workload", show: Workload },
  { path: "/pods", title: "Pods", show: Pods, nav: { group: "Kubernetes", icon: "pods", key: "p" } },
  { path: "/pods/:ns/:name", title: "Pod", show: Pod },
  { path: "/network", title: "Network", show: Kinds, nav: { group: "Kubernetes", icon: "network", key: "s" } },
  { path: "/config", title: "Config", show: Kinds, nav: { group: "Kubernetes", icon: "config", key: "i" } },
  { path: "/storage", title: "Storage", show: Kinds, nav: { group: "Kubernetes", icon: "storage", key: "v" } },
  { path: "/access", title: "Access", show: Kinds, nav: { group: "Cluster", icon: "access", key: "r" } },
  { path: "/extensions", title: "Extensions", show: Kinds, nav: { group: "Cluster", icon: "add", key: "x" } },
  { path: "/events", title: "Events", show: Events, nav: { group: "Observe", icon: "events", key: "e" } },
  { path: "/logs", title: "Logs", show: Logs, nav: { group: "Observe", icon: "logs", key: "l" } },
  { path: "/metrics", title: "Metrics", show: Metrics, nav: { group: "Observe", icon: "metrics", key: "h" }, global: true },
  { path: "/create", title: "Create", show: Create, nav: { group: "Kubernetes", icon: "add", key: "c" } },
  { path: "/resources", title: "Any resource", show: Resources, nav: { group: "Cluster", icon: "resources", key: "a" }, global: true },
  { path: "/resources/:group/:version/:plural", title: "Resource", show: Resource },
  { path: "/resources/:group/:version/:plural/:ns/:name", title: "Object", show: Object },
];
