// The pages, each a file of its own in pages/, loaded when it is first shown. A page with nav is in the navigation, in this order.
import type { FunctionComponent } from "preact";
import type { IconName } from "./icons";

export interface PageProps { params: Record<string, string> }

export interface Page {
  /** path is a pattern such as /pods/:ns/:name. */
  path: string;
  title: string;
  load: () => Promise<{ default: FunctionComponent<PageProps> }>;
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
  { path: "/", title: "Overview", load: () => import("./pages/overview"), nav: { group: "", icon: "overview", key: "o" }, global: true },
  { path: "/mesos", title: "Mesos", load: () => import("./pages/mesos"), nav: { group: "Mesos", icon: "mesos", key: "m" }, global: true },
  { path: "/nodes", title: "Nodes", load: () => import("./pages/nodes"), nav: { group: "Mesos", icon: "nodes", key: "n" }, global: true },
  { path: "/nodes/:agent", title: "Agent and node", load: () => import("./pages/node"), global: true },
  { path: "/offers", title: "Offers", load: () => import("./pages/offers"), nav: { group: "Mesos", icon: "offers", key: "f" }, global: true },
  { path: "/queue", title: "Queue", load: () => import("./pages/queue"), nav: { group: "Mesos", icon: "queue", key: "t" } },
  { path: "/workloads", title: "Workloads", load: () => import("./pages/workloads"), nav: { group: "Kubernetes", icon: "workloads", key: "w" } },
  { path: "/workloads/:plural/:ns/:name", title: "Workload", load: () => import("./pages/workload") },
  { path: "/pods", title: "Pods", load: () => import("./pages/pods"), nav: { group: "Kubernetes", icon: "pods", key: "p" } },
  { path: "/pods/:ns/:name", title: "Pod", load: () => import("./pages/pod") },
  { path: "/network", title: "Network", load: () => import("./pages/kinds"), nav: { group: "Kubernetes", icon: "network", key: "s" } },
  { path: "/config", title: "Config", load: () => import("./pages/kinds"), nav: { group: "Kubernetes", icon: "config", key: "i" } },
  { path: "/storage", title: "Storage", load: () => import("./pages/kinds"), nav: { group: "Kubernetes", icon: "storage", key: "v" } },
  { path: "/access", title: "Access", load: () => import("./pages/kinds"), nav: { group: "Cluster", icon: "access", key: "r" } },
  { path: "/extensions", title: "Extensions", load: () => import("./pages/kinds"), nav: { group: "Cluster", icon: "add", key: "x" } },
  { path: "/events", title: "Events", load: () => import("./pages/events"), nav: { group: "Observe", icon: "events", key: "e" } },
  { path: "/logs", title: "Logs", load: () => import("./pages/logs"), nav: { group: "Observe", icon: "logs", key: "l" } },
  { path: "/metrics", title: "Metrics", load: () => import("./pages/metrics"), nav: { group: "Observe", icon: "metrics", key: "h" }, global: true },
  { path: "/create", title: "Create", load: () => import("./pages/create"), nav: { group: "Kubernetes", icon: "add", key: "c" } },
  { path: "/resources", title: "Any resource", load: () => import("./pages/resources"), nav: { group: "Cluster", icon: "resources", key: "a" }, global: true },
  { path: "/resources/:group/:version/:plural", title: "Resource", load: () => import("./pages/resource") },
  { path: "/resources/:group/:version/:plural/:ns/:name", title: "Object", load: () => import("./pages/object") },
];
