import { pathOf, send, type KubeObject } from "../api";
import { Details } from "../details";
import { Events } from "../events";
import { command } from "../format";
import { listOf } from "../groups";
import { useObject } from "../live";
import type { PageProps } from "../pages";
import { useRights } from "../rights";
import { go, link, param } from "../router";
import { Age, Button, confirm, copy, Empty, Facts, Failure, Live, Loading, PageHead, Panel, Tabs } from "../ui";
import { YAMLView } from "../yaml";
import { Conditions, Labels } from "./pod";
import { useKind } from "./resource";

export default function ObjectPage({ params }: PageProps) {
  const { kind, problem: unknown } = useKind(params);
  const name = params.name!, ns = params.ns === "-" ? "" : params.ns!;
  const { object, feed } = useObject<KubeObject>(kind ? pathOf(kind, ns) : null, name);
  const can = useRights(ns);
  const tab = param("tab") || "overview";
  const list = `/resources/${params.group}/${params.version}/${params.plural}`;
  const above = <><a href={listOf(params, { ns: "" })}>{kind?.kind ?? params.plural}</a>{ns && <> / <a href={listOf(params, { ns })}>{ns}</a></>}</>;
  const problem = kind === null ? { code: 404, message: "The API server does not list this kind." } : unknown ?? (feed.state.value === "ended" ? feed.problem.value : null);
  if (problem) return <><PageHead above={above} title={name} /><Failure problem={problem} what={`${kind?.kind ?? params.plural} ${name}`} /></>;
  if (object === null && kind) return <><PageHead above={above} title={name} /><Empty title={`This ${kind.kind} is gone`}><a class="button" href={listOf(params, { ns })}>All {kind.plural}</a></Empty></>;
  if (!object || !kind) return <><PageHead above={above} title={name} /><Loading /></>;
  const whole: KubeObject = { apiVersion: kind.group ? `${kind.group}/${kind.version}` : kind.version, kind: kind.kind, ...object };
  const remove = () => confirm({
    title: `Delete ${kind.kind} ${name}?`, action: "Delete", danger: true, done: `${kind.kind} ${name} is being deleted`, type: kind.namespaced ? undefined : name,
    says: <><p>What it owns is deleted after it{object.metadata.finalizers?.length ? `, once its finalizers have ended: ${object.metadata.finalizers.join(", ")}` : ""}.</p><p>This cannot be undone.</p></>,
    do: () => send("DELETE", pathOf(kind, ns, name), { preconditions: { uid: object.metadata.uid } }).then(() => { go(listOf(params)); }),
  });
  return (
    <>
      <PageHead above={above} title={name} note={<><span class="muted">created <Age since={object.metadata.creationTimestamp} /> ago</span> <Live feed={feed} /></>}>
        <Button icon="copy" onClick={() => copy(command("km", "kubectl", ...(ns ? ["--namespace", ns] : []), "get", `${kind.plural}${kind.group ? `.${kind.group}` : ""}`, name, "-o", "yaml"), "the kubectl command")}>kubectl</Button>
        {can("delete", kind, name) && <Button icon="trash" kind="danger" onClick={remove}>Delete</Button>}
      </PageHead>
      <Tabs now={tab} tabs={[["overview", "Overview"], ["yaml", "YAML"]]} href={(t) => link(`${list}/${encodeURIComponent(ns || "-")}/${encodeURIComponent(name)}`, { tab: t === "overview" ? "" : t })} />
      {tab === "yaml" ? <YAMLView object={whole} path={can("update", kind, name) ? pathOf(kind, ns, name) : undefined} /> : (
        <div class="panels">
          <Panel title="About">
            <Facts facts={[
              ["Kind", whole.kind], ["API", whole.apiVersion], ["Namespace", ns], ["Generation", object.metadata.generation?.toString()],
              ["Owned by", object.metadata.ownerReferences?.map((o) => `${o.kind} ${o.name}`).join(", ")],
              ["Finalizers", object.metadata.finalizers?.join(", ")], ["Deleted", object.metadata.deletionTimestamp && <Age since={object.metadata.deletionTimestamp} />],
            ]} />
          </Panel>
          <Details object={whole} />
          {object.status?.conditions && <Panel title="Conditions"><Conditions of={whole} /></Panel>}
          <Panel title="Events"><Events of={object} /></Panel>
          <Labels of={whole} />
        </div>
      )}
    </>
  );
}
