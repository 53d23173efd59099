// What a kind of objects is about, in panels: for those kinds that people look at most.
import type { ComponentChildren, JSX } from "preact";
import { useState } from "preact/hooks";
import { core, pageOf, type KubeObject } from "./api";
import { useObjects } from "./live";
import { link } from "./router";
import { Button, Empty, Facts, Panel, Status } from "./ui";
import { PodsOf } from "./pages/workload";
import { selectorOf } from "./workloads";

const shows: Record<string, (o: KubeObject) => JSX.Element> = {
  Service: (o) => <Service o={o} />,
  Ingress: (o) => <Ingress o={o} />,
  NetworkPolicy: (o) => <NetworkPolicy o={o} />,
  ConfigMap: (o) => <Data title="Data" data={{ ...o.data, ...o.binaryData }} />,
  Secret: (o) => <Secret o={o} />,
  PersistentVolumeClaim: (o) => <Claim o={o} />,
  Role: (o) => <Rules o={o} />,
  ClusterRole: (o) => <Rules o={o} />,
  RoleBinding: (o) => <Binding o={o} />,
  ClusterRoleBinding: (o) => <Binding o={o} />,
  ResourceQuota: (o) => <Quota o={o} />,
  CustomResourceDefinition: (o) => <Custom o={o} />,
};

/** Details are the panels of an object's kind; nothing for other kinds. */
export const Details = ({ object }: { object: KubeObject }) => shows[object.kind ?? ""]?.(object) ?? null;

/** Rows is a plain table. */
const Rows = ({ label, head, rows }: { label: string; head: string[]; rows: ComponentChildren[][] }) => (
  <div class="scroll" tabIndex={0} role="region" aria-label={label}><table class="plain">
    <thead><tr>{head.map((h) => <th key={h} scope="col">{h}</th>)}</tr></thead>
    <tbody>{rows.map((r, i) => <tr key={i}>{r.map((c, j) => <td key={j} class="break">{c}</td>)}</tr>)}</tbody>
  </table></div>
);

function Service({ o }: { o: KubeObject }) {
  const ns = o.metadata.namespace!, selector = selectorOf({ ...o, spec: { selector: o.spec.selector } });
  const slices = useObjects<KubeObject>(`/apis/discovery.k8s.io/v1/namespaces/${encodeURIComponent(ns)}/endpointslices?labelSelector=${encodeURIComponent(`kubernetes.io/service-name=${o.metadata.name}`)}`);
  const endpoints = slices.items.value.flatMap((s) => (s.endpoints ?? []).map((e: any) => ({ ...e, ports: s.ports ?? [] })));
  return (
    <>
      <Panel title="How it is reached">
        <Facts facts={[
          ["Type", o.spec.type], ["Addresses", (o.spec.clusterIPs ?? []).join(", ")], ["Name", `${o.metadata.name}.${ns}.svc`], ["External", [...(o.spec.externalIPs ?? []), ...(o.status?.loadBalancer?.ingress ?? []).map((i: any) => i.ip ?? i.hostname)].join(", ")],
          ["Leads to", o.spec.externalName], ["Selector", selector && <code class="break">{selector}</code>],
        ]} />
        {o.spec.ports && <Rows label="Ports" head={["Port", "Target", "Node port", "Name"]} rows={o.spec.ports.map((p: any) => [`${p.port}/${p.protocol}`, p.targetPort, p.nodePort ?? "", p.name ?? ""])} />}
      </Panel>
      <Panel title="Who answers" class="wide">
        {endpoints.length ? <Rows label="Endpoints" head={["State", "Address", "Pod", "Node"]} rows={endpoints.map((e) => [
          <Status text={e.conditions?.ready === false ? (e.conditions?.terminating ? "Terminating" : "Not ready") : "Ready"} tone={e.conditions?.ready === false ? "warn" : "ok"} />,
          <code>{e.addresses.map((a: string) => e.ports.map((p: any) => `${a.includes(":") ? `[${a}]` : a}:${p.port}`).join(" ") || a).join(" ")}</code>,
          e.targetRef?.kind === "Pod" ? <a href={link(pageOf(core("pods"), ns, e.targetRef.name))}>{e.targetRef.name}</a> : "", e.nodeName ?? "",
        ])} /> : <Empty title={slices.state.value === "loading" ? "Loading…" : selector ? "Nobody answers" : "It selects no pods"}>{selector && <p>No pod that is ready has the labels <code>{selector}</code>.</p>}</Empty>}
      </Panel>
    </>
  );
}

const Ingress = ({ o }: { o: KubeObject }) => (
  <Panel title="Rules" class="wide">
    <Rows label="Rules" head={["Host", "Path", "Service"]} rows={(o.spec.rules ?? []).flatMap((r: any) => (r.http?.paths ?? []).map((p: any) => [
      r.host ?? "any", p.path ?? "/", p.backend?.service ? <a href={link(pageOf(core("services"), o.metadata.namespace, p.backend.service.name))}>{p.backend.service.name}:{p.backend.service.port?.number ?? p.backend.service.port?.name}</a> : "",
    ]))} />
  </Panel>
);

/** peers says in words from where or to where a policy's rule allows. */
function peers(list: any[] | undefined): string {
  if (!list?.length) return "anywhere";
  return list.map((p) => {
    if (p.ipBlock) return p.ipBlock.cidr + (p.ipBlock.except ? ` but ${p.ipBlock.except.join(", ")}` : "");
    const pods = p.podSelector ? selectorOf({ spec: { selector: p.podSelector } } as any) || "all pods" : "all pods";
    const spaces = p.namespaceSelector ? selectorOf({ spec: { selector: p.namespaceSelector } } as any) || "all namespaces" : "this namespace";
    return `${pods} in ${spaces}`;
  }).join("; ");
}

function NetworkPolicy({ o }: { o: KubeObject }) {
  const selector = selectorOf({ ...o, spec: { selector: o.spec.podSelector } });
  const types: string[] = o.spec.policyTypes ?? ["Ingress"];
  const rules = types.flatMap((t) => {
    const list: any[] = (t === "Ingress" ? o.spec.ingress : o.spec.egress) ?? [];
    const ports = (r: any) => (r.ports ?? []).map((p: any) => `${p.port ?? "all"}${p.endPort ? `–${p.endPort}` : ""}/${p.protocol ?? "TCP"}`).join(", ") || "all";
    return list.length ? list.map((r) => [t === "Ingress" ? "in" : "out", peers(t === "Ingress" ? r.from : r.to), ports(r)]) : [[t === "Ingress" ? "in" : "out", "nothing", "–"]];
  });
  return (
    <>
      <Panel title="What it allows" class="wide"><Rows label="Rules" head={["Direction", "From or to", "Ports"]} rows={rules} /></Panel>
      <Panel title="Pods that it selects" class="wide"><PodsOf ns={o.metadata.namespace!} selector={selector} /></Panel>
    </>
  );
}

const Data = ({ title, data, note }: { title: string; data: Record<string, string> | undefined; note?: ComponentChildren }) => (
  <Panel title={title} note={note} class="wide">
    {Object.keys(data ?? {}).length ? Object.entries(data!).map(([k, v]) => <div key={k} class="datum"><h3>{k}</h3><pre class="code" tabIndex={0} aria-label={k}>{v}</pre></div>) : <p class="muted">It is empty</p>}
  </Panel>
);

function Secret({ o }: { o: KubeObject }) {
  const [shown, setShown] = useState(false);
  const read = (v: string) => { try { return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(atob(v), (c) => c.charCodeAt(0))); } catch { return `${v} (base64)`; } };
  const data = Object.fromEntries(Object.entries<string>(o.data ?? {}).map(([k, v]) => [k, shown ? read(v) : "•••"]));
  return <Data title={`Data of type ${o.type}`} data={data} note={<Button pressed={shown} onClick={() => setShown(!shown)}>{shown ? "Hide values" : "Show values"}</Button>} />;
}

const Claim = ({ o }: { o: KubeObject }) => (
  <Panel title="Volume">
    <Facts facts={[
      ["State", <Status text={o.status?.phase ?? "Pending"} />], ["Size", o.status?.capacity?.storage ?? o.spec.resources?.requests?.storage], ["Access", (o.spec.accessModes ?? []).join(", ")], ["Class", o.spec.storageClassName],
      ["Volume", o.spec.volumeName && <a href={link(pageOf(core("persistentvolumes"), "", o.spec.volumeName))}>{o.spec.volumeName}</a>],
    ]} />
  </Panel>
);

const Rules = ({ o }: { o: KubeObject }) => (
  <Panel title="What it allows" class="wide">
    <Rows label="Rules" head={["Verbs", "Resources", "API groups", "Names"]} rows={(o.rules ?? []).map((r: any) => [
      r.verbs.join(", "), (r.resources ?? r.nonResourceURLs ?? []).join(", "), (r.apiGroups ?? []).map((g: string) => g || "core").join(", "), (r.resourceNames ?? []).join(", ") || "all",
    ])} />
  </Panel>
);

const Binding = ({ o }: { o: KubeObject }) => (
  <>
    <Panel title="Role"><Facts facts={[["Kind", o.roleRef.kind], ["Name", <a href={link(pageOf({ group: "rbac.authorization.k8s.io", version: "v1", plural: o.roleRef.kind === "Role" ? "roles" : "clusterroles" }, o.roleRef.kind === "Role" ? o.metadata.namespace : "", o.roleRef.name))}>{o.roleRef.name}</a>]]} /></Panel>
    <Panel title="Who has it"><Rows label="Subjects" head={["Kind", "Name", "Namespace"]} rows={(o.subjects ?? []).map((s: any) => [s.kind, s.name, s.namespace ?? ""])} /></Panel>
  </>
);

const Quota = ({ o }: { o: KubeObject }) => (
  <Panel title="Used" class="wide"><Rows label="Quota" head={["Resource", "Used", "At most"]} rows={Object.entries<string>(o.status?.hard ?? o.spec.hard ?? {}).map(([k, v]) => [k, o.status?.used?.[k] ?? "–", v])} /></Panel>
);

function Custom({ o }: { o: KubeObject }) {
  const version = o.spec.versions.find((v: any) => v.storage) ?? o.spec.versions[0];
  return (
    <Panel title="Kind">
      <Facts facts={[["Kind", o.spec.names.kind], ["Group", o.spec.group], ["Scope", o.spec.scope], ["Versions", o.spec.versions.map((v: any) => v.name + (v.served ? "" : " (not served)")).join(", ")],
        ["Objects", <a href={link(pageOf({ group: o.spec.group, version: version.name, plural: o.spec.names.plural }))}>All {o.spec.names.plural}</a>]]} />
    </Panel>
  );
}
