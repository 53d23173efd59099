import { useEffect, useMemo, useState } from "preact/hooks";
import { k8s, pathOf, send, type KubeObject } from "../api";
import { Compare } from "../edit";
import { Events } from "../events";
import { command } from "../format";
import { Icon } from "../icons";
import { useKey } from "../keys";
import { usePart } from "../lazy";
import { useObject, useObjects } from "../live";
import type { PageProps } from "../pages";
import { useRights } from "../rights";
import { go, link, param } from "../router";
import { Age, attempt, Button, confirm, copy, Empty, Facts, Failure, Live, Loading, Modal, PageHead, Panel, Status, Tabs } from "../ui";
import { kinds, ownersOf, restart, revisionsOf, rollout, run, scale, selectorOf, set, undo, workloadPage, type Revision, type WorkloadKind } from "../workloads";
import { toYAML, YAMLView } from "../yaml";
import { Conditions, Labels } from "./pod";
import { PodTable } from "./pods";

export default function Workload({ params }: PageProps) {
  const kind = kinds.find((k) => k.plural === params.plural), ns = params.ns!, name = params.name!;
  if (!kind) return <><PageHead title={name} /><Failure problem={{ code: 404, message: "" }} what={`workload of the kind ${params.plural}`} /></>;
  return <Shown kind={kind} ns={ns} name={name} />;
}

function Shown({ kind, ns, name }: { kind: WorkloadKind; ns: string; name: string }) {
  const { object: found, feed } = useObject<KubeObject>(pathOf(kind, ns), name);
  const can = useRights(ns);
  const tab = param("tab") || "overview";
  const [scaling, setScaling] = useState(false);
  const object = useMemo((): KubeObject | null | undefined => found && { ...found, apiVersion: kind.group ? `${kind.group}/${kind.version}` : kind.version, kind: kind.kind }, [found]);
  const mayScale = !!object && !!kind.scales && can("patch", { group: kind.group, plural: `${kind.plural}/scale` }, name);
  const href = (t: string) => link(workloadPage(kind.plural, ns, name), { tab: t === "overview" ? "" : t });
  useKey("s", mayScale ? () => setScaling(true) : null);
  useKey("e", object ? () => go(href("yaml")) : null);
  const above = <><a href={link("/workloads", { kind: kind.plural, ns: "" })}>{kind.title}</a> / <a href={link("/workloads", { kind: kind.plural, ns })}>{ns}</a></>;
  const problem = feed.problem.value;
  if (feed.state.value === "ended" && problem) return <><PageHead above={above} title={name} /><Failure problem={problem} what={`${kind.kind} ${name}`} /></>;
  if (object === null) return <><PageHead above={above} title={name} /><Empty title={`This ${kind.kind} is gone`}><a class="button" href={link("/workloads", { kind: kind.plural, ns })}>{kind.title} of {ns}</a></Empty></>;
  if (!object) return <><PageHead above={above} title={name} /><Loading /></>;
  const state = rollout(object);
  const mayPatch = can("patch", kind, name);
  const tabs: [string, string][] = [["overview", "Overview"]];
  if (kind.restarts) tabs.push(["history", "History"]);
  tabs.push(["yaml", "YAML"]);
  return (
    <>
      <PageHead above={above} title={name} note={<>{state && <Status text={state.text} tone={state.tone} />} <Live feed={feed} /></>}>
        <Button icon="copy" onClick={() => copy(command("km", "kubectl", "--namespace", ns, "describe", kind.plural, name), "the kubectl command")}>kubectl</Button>
        {ownersOf(object) && can("get", { group: "", plural: "pods/log" }) && <a class="button" href={link("/logs", { ns, owner: ownersOf(object) })}><Icon name="logs" />Logs</a>}
        {mayScale && <Button icon="scale" onClick={() => setScaling(true)}>Scale</Button>}
        {kind.restarts && mayPatch && <Button icon="restart" onClick={() => askRestart(kind, object)}>Restart</Button>}
        {kind.kind === "Deployment" && mayPatch && <Button icon={object.spec.paused ? "play" : "pause"} onClick={() => askPause(kind, object)}>{object.spec.paused ? "Resume" : "Pause"}</Button>}
        {kind.kind === "CronJob" && can("create", { group: "batch", plural: "jobs" }) && <Button icon="play" onClick={() => askRun(object)}>Run now</Button>}
        {kind.kind === "CronJob" && mayPatch && <Button icon={object.spec.suspend ? "play" : "pause"} onClick={() => askSuspend(kind, object)}>{object.spec.suspend ? "Resume" : "Suspend"}</Button>}
        {can("delete", kind, name) && <Button icon="trash" kind="danger" onClick={() => askDelete(kind, object)}>Delete</Button>}
      </PageHead>
      <Tabs now={tab} tabs={tabs} href={href} />
      {tab === "yaml" ? <YAMLView object={object} path={can("update", kind, name) ? pathOf(kind, ns, name) : undefined} />
        : tab === "history" ? <History kind={kind} object={object} may={mayPatch} />
        : <Overview kind={kind} object={object} />}
      {scaling && <Scale kind={kind} object={object} close={() => setScaling(false)} />}
    </>
  );
}

function Overview({ kind, object: o }: { kind: WorkloadKind; object: KubeObject }) {
  const ns = o.metadata.namespace!, template = o.spec.template ?? o.spec.jobTemplate?.spec?.template;
  const images = (template?.spec?.containers ?? []).map((c: any) => c.image).join(", ");
  const selector = kind.kind === "CronJob" || kind.kind === "HorizontalPodAutoscaler" ? "" : selectorOf(o);
  return (
    <>
      <div class="panels">
        <Panel title="About">
          <Facts facts={[
            ["Replicas", kind.scales ? String(o.spec.replicas ?? 1) : undefined], ["Images", images && <code class="break">{images}</code>], ["Strategy", o.spec.strategy?.type ?? o.spec.updateStrategy?.type],
            ["Schedule", o.spec.schedule], ["Last run", o.status?.lastScheduleTime && <Age since={o.status.lastScheduleTime} />],
            ["Scales", o.spec.scaleTargetRef && `${o.spec.scaleTargetRef.kind} ${o.spec.scaleTargetRef.name}`], ["Between", o.spec.maxReplicas && `${o.spec.minReplicas ?? 1} and ${o.spec.maxReplicas}, now ${o.status?.currentReplicas ?? 0}`],
            ["Owned by", o.metadata.ownerReferences?.map((r) => `${r.kind} ${r.name}`).join(", ")], ["Created", <Age since={o.metadata.creationTimestamp} />],
          ]} />
        </Panel>
        {o.status?.conditions && <Panel title="Conditions"><Conditions of={o} /></Panel>}
        <Panel title="Events" class={o.status?.conditions ? "wide" : ""}><Events of={o} /></Panel>
        <Labels of={o} />
      </div>
      {selector && <div class="below"><h2>Pods</h2><PodsOf ns={ns} selector={selector} /></div>}
    </>
  );
}

/** PodsOf are the pods that labels select. */
export const PodsOf = ({ ns, selector }: { ns: string; selector: string }) => (
  <PodTable ns={ns} query={`labelSelector=${encodeURIComponent(selector)}`} empty={<Empty title="No pods" />} />
);

function Scale({ kind, object: o, close }: { kind: WorkloadKind; object: KubeObject; close: () => void }) {
  const [n, setN] = useState(String(o.spec.replicas ?? 1));
  const [scalers, setScalers] = useState<string[]>([]);
  useEffect(() => {
    k8s(`/apis/autoscaling/v2/namespaces/${encodeURIComponent(o.metadata.namespace!)}/horizontalpodautoscalers`).then((l) =>
      setScalers(l.items.filter((h: any) => h.spec.scaleTargetRef.kind === kind.kind && h.spec.scaleTargetRef.name === o.metadata.name).map((h: any) => h.metadata.name)), () => {});
  }, []);
  const now = o.spec.replicas ?? 1, want = Number(n), valid = /^\d+$/.test(n) && want <= 100_000;
  return (
    <Modal title={`Scale ${o.metadata.name}`} onClose={close}>
      <form onSubmit={async (e) => {
        e.preventDefault();
        if (await attempt(() => scale(kind, o, want), `${o.metadata.name} gets ${want} ${want === 1 ? "pod" : "pods"}`)) close();
      }}>
        <h2>Scale {kind.kind} {o.metadata.name}</h2>
        <label class="field"><span>Pods, now {now}</span><input type="number" min="0" max="100000" value={n} autofocus onInput={(e) => setN(e.currentTarget.value)} /></label>
        <div class="says"><p>{!valid ? "Give a number from 0." : want === now ? "Nothing changes." : want > now ? `${want - now === 1 ? "One more pod is" : `${want - now} more pods are`} made, when Mesos offers room.` : want === 0 ? "All pods end. Nothing answers then." : now - want === 1 ? "One pod ends." : `${now - want} pods end.`}</p>
          {scalers.length > 0 && <p>The autoscaler {scalers.join(", ")} will soon change the number again.</p>}</div>
        <div class="buttons"><Button onClick={close}>Cancel</Button><Button type="submit" kind={want === 0 ? "danger" : "primary"} disabled={!valid || want === now}>Scale</Button></div>
      </form>
    </Modal>
  );
}

/** History are the revisions that can be gone back to. */
function History({ kind, object: o, may }: { kind: WorkloadKind; object: KubeObject; may: boolean }) {
  const ns = o.metadata.namespace!, deployment = kind.kind === "Deployment";
  const kept = useObjects<KubeObject>(`${pathOf({ group: "apps", version: "v1", plural: deployment ? "replicasets" : "controllerrevisions" }, ns)}?labelSelector=${encodeURIComponent(selectorOf(o))}`);
  const revisions = useMemo(() => revisionsOf(kind, o, kept.items.value), [kept.items.value, o]);
  const [chosen, setChosen] = useState<Revision | null>(null);
  const { part: yaml, failure } = usePart("yaml");
  const texts = useMemo(() => (chosen && yaml ? [toYAML(yaml, o.spec.template), toYAML(yaml, chosen.template)] as const : null), [chosen, yaml]);
  const problem = kept.problem.value;
  if (kept.state.value === "ended" && problem) return <Failure problem={problem} what="earlier revisions" />;
  if (!revisions.length) return kept.state.value === "loading" ? <p class="muted">Loading…</p> : <Empty title="No revisions are kept" />;
  return (
    <div class="edit">
      <Panel title="Revisions">
        <div class="scroll" tabIndex={0} role="region" aria-label="Revisions"><table class="plain">
          <thead><tr><th scope="col">Revision</th><th scope="col">Images</th><th scope="col">Why</th><th scope="col">Age</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
          <tbody>{revisions.map((r) => (
            <tr key={r.object.metadata.uid}>
              <td>{r.number}{r.now && <small class="tag">now</small>}</td>
              <td class="mono break">{(r.template.spec?.containers ?? []).map((c: any) => c.image).join(", ")}</td>
              <td class="break">{r.object.metadata.annotations?.["kubernetes.io/change-cause"] ?? ""}</td>
              <td><Age since={r.object.metadata.creationTimestamp} /></td>
              <td class="numeric">{!r.now && <Button pressed={chosen?.object.metadata.uid === r.object.metadata.uid} onClick={() => setChosen(r)}>Compare</Button>}</td>
            </tr>
          ))}</tbody>
        </table></div>
      </Panel>
      {chosen && failure}
      {chosen && texts && <>
        <div class="toolbar"><strong>Going back to revision {chosen.number} would change</strong><span class="grow" />
          {may && <Button kind="primary" onClick={() => confirm({
            title: `Go back to revision ${chosen.number}?`, action: "Go back", done: `${o.metadata.name} goes back to revision ${chosen.number}`,
            says: <p>The pods are replaced as in any rollout. The number of pods stays.</p>, do: () => undo(kind, o, chosen).then(() => setChosen(null)),
          })}>Go back</Button>}</div>
        <Compare left={texts[0]} right={texts[1]} />
      </>}
    </div>
  );
}

const askRestart = (k: WorkloadKind, o: KubeObject) => confirm({
  title: `Restart ${o.metadata.name}?`, action: "Restart", done: `${o.metadata.name} restarts`,
  says: <p>{o.spec.strategy?.type === "Recreate" ? "All its pods end, and then new ones start: nothing answers meanwhile." : "New pods replace the old ones step by step, as in a rollout."}</p>, do: () => restart(k, o),
});

const askPause = (k: WorkloadKind, o: KubeObject) => confirm({
  title: `${o.spec.paused ? "Resume" : "Pause"} rollouts of ${o.metadata.name}?`, action: o.spec.paused ? "Resume" : "Pause", done: `Rollouts of ${o.metadata.name} are ${o.spec.paused ? "resumed" : "paused"}`,
  says: <p>{o.spec.paused ? "Changes that were made meanwhile are rolled out now." : "Changes of the pods are kept, but not rolled out until you resume. Pods that run stay."}</p>, do: () => set(k, o, { paused: !o.spec.paused }),
});

const askSuspend = (k: WorkloadKind, o: KubeObject) => confirm({
  title: `${o.spec.suspend ? "Resume" : "Suspend"} ${o.metadata.name}?`, action: o.spec.suspend ? "Resume" : "Suspend", done: `${o.metadata.name} is ${o.spec.suspend ? "resumed" : "suspended"}`,
  says: <p>{o.spec.suspend ? `It runs at ${o.spec.schedule} again.` : "It makes no more Jobs until you resume it. Jobs that run stay."}</p>, do: () => set(k, o, { suspend: !o.spec.suspend }),
});

const askRun = (o: KubeObject) => confirm({
  title: `Run ${o.metadata.name} now?`, action: "Run", done: `A Job of ${o.metadata.name} starts`, says: <p>A Job is made of its template, beside those of its schedule.</p>, do: () => run(o),
});

const askDelete = (k: WorkloadKind, o: KubeObject) => confirm({
  title: `Delete ${k.kind} ${o.metadata.name}?`, action: "Delete", danger: true, done: `${k.kind} ${o.metadata.name} is being deleted`, type: (o.spec.replicas ?? 0) > 10 ? o.metadata.name : undefined,
  says: <><p>{k.kind === "HorizontalPodAutoscaler" ? "What it scales stays, with as many pods as now." : "Its pods are deleted, too."}</p><p>This cannot be undone.</p></>,
  do: () => send("DELETE", pathOf(k, o.metadata.namespace, o.metadata.name), { propagationPolicy: "Background", preconditions: { uid: o.metadata.uid } }).then(() => go(link("/workloads", { kind: k.plural }))),
});
