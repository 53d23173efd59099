import { Kinds } from "./kinds";

export default () => <Kinds title="Config" note="What pods are given, and what namespaces may have." path="/config" kinds={[
  ["configmaps.", "ConfigMaps"], ["secrets.", "Secrets"], ["resourcequotas.", "Quotas"], ["limitranges.", "Limits"], ["poddisruptionbudgets.policy", "Disruption budgets"],
  ["priorityclasses.scheduling.k8s.io", "Priorities"], ["namespaces.", "Namespaces"],
]} />;
