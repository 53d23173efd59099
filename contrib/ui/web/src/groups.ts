// Kinds that belong together on a page, a tab each.
import { link } from "./router";

interface Group {
  title: string;
  note: string;
  /** kinds are PLURAL.GROUP, with a title; those that the API server does not have are left out. */
  kinds: [string, string][];
}

/** groups are by the path of their page. */
export const groups: Record<string, Group> = {
  "/network": {
    title: "Network", note: "How pods are reached, and by whom.", kinds: [
      ["services.", "Services"], ["endpointslices.discovery.k8s.io", "Endpoints"], ["ingresses.networking.k8s.io", "Ingresses"], ["networkpolicies.networking.k8s.io", "Policies"],
      ["gateways.gateway.networking.k8s.io", "Gateways"], ["httproutes.gateway.networking.k8s.io", "Routes"],
    ],
  },
  "/config": {
    title: "Config", note: "What pods are given, and what namespaces may have.", kinds: [
      ["configmaps.", "ConfigMaps"], ["secrets.", "Secrets"], ["resourcequotas.", "Quotas"], ["limitranges.", "Limits"], ["poddisruptionbudgets.policy", "Disruption budgets"],
      ["priorityclasses.scheduling.k8s.io", "Priorities"], ["namespaces.", "Namespaces"],
    ],
  },
  "/storage": {
    title: "Storage", note: "Volumes that outlive pods.", kinds: [
      ["persistentvolumeclaims.", "Claims"], ["persistentvolumes.", "Volumes"], ["storageclasses.storage.k8s.io", "Classes"], ["volumeattachments.storage.k8s.io", "Attachments"],
      ["csidrivers.storage.k8s.io", "Drivers"],
    ],
  },
  "/access": {
    title: "Access", note: "Who may do what.", kinds: [
      ["rolebindings.rbac.authorization.k8s.io", "RoleBindings"], ["clusterrolebindings.rbac.authorization.k8s.io", "ClusterRoleBindings"], ["roles.rbac.authorization.k8s.io", "Roles"],
      ["clusterroles.rbac.authorization.k8s.io", "ClusterRoles"], ["serviceaccounts.", "Service accounts"], ["certificatesigningrequests.certificates.k8s.io", "Certificate requests"],
    ],
  },
  "/extensions": {
    title: "Extensions", note: "What others have added to the API.", kinds: [
      ["customresourcedefinitions.apiextensions.k8s.io", "Custom resources"], ["apiservices.apiregistration.k8s.io", "API services"],
      ["validatingadmissionpolicies.admissionregistration.k8s.io", "Policies"], ["validatingwebhookconfigurations.admissionregistration.k8s.io", "Validating webhooks"],
      ["mutatingwebhookconfigurations.admissionregistration.k8s.io", "Mutating webhooks"],
    ],
  },
};

/** groupOf is the path of the page that has a kind as a tab; undefined if none has. group is "core" or "" for the core group. */
export const groupOf = (plural: string, group: string): string | undefined =>
  Object.keys(groups).find((path) => groups[path]!.kinds.some(([id]) => id === `${plural}.${group === "core" ? "" : group}`));

/** listOf is where a kind is listed, as the parts of its own page's path say. */
export function listOf({ group = "", version = "", plural = "" }: Record<string, string>, params: Record<string, string> = {}): string {
  const page = groupOf(plural, group);
  return page ? link(page, { kind: plural, ...params }) : link(`/resources/${group}/${version}/${plural}`, params);
}
