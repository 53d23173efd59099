import { useRef, useState } from "preact/hooks";
import { discover, k8s, pageOf, pathOf, session, type KubeObject, type Resource } from "../api";
import { EditorView, read, Troubles, troublesOf, type Trouble } from "../edit";
import type { Editor } from "../lazy/editor";
import { usePart } from "../lazy";
import { useMayCreate } from "../rights";
import { link, param } from "../router";
import { Button, Empty, PageHead, Panel, Status, toast } from "../ui";

const example = (ns: string) => `apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
  namespace: ${ns || "default"}
spec:
  replicas: 2
  selector:
    matchLabels:
      app: hello
  template:
    metadata:
      labels:
        app: hello
    spec:
      containers:
        - name: hello
          image: busybox
          command: ["sleep", "1h"]
          resources:
            requests:
              cpu: 100m
              memory: 64Mi
`;

interface Target { object: KubeObject; path: string; kind: Resource; ns: string }

/** locate finds where an object belongs. */
async function locate(object: KubeObject, kinds: Resource[]): Promise<Target> {
  const [version, group = ""] = (object.apiVersion ?? "").split("/").reverse();
  const kind = kinds.find((k) => k.group === group && k.kind === object.kind);
  if (!object.metadata?.name) throw new Error(`A ${object.kind ?? "document"} has no metadata.name`);
  if (!kind || !version) throw new Error(`The API server has no kind ${object.kind} in ${object.apiVersion}`);
  const at = { ...kind, version }, ns = kind.namespaced ? object.metadata.namespace || param("ns") || "default" : "";
  return { object, kind: at, ns, path: pathOf(at, ns, object.metadata.name) };
}

/** put makes or changes an object (server-side apply). */
const put = (t: Target, dry: boolean) => k8s<KubeObject>(`${t.path}?fieldManager=km-ui&fieldValidation=Strict${dry ? "&dryRun=All" : ""}`, {
  method: "PATCH", headers: { "Content-Type": "application/apply-patch+yaml" }, body: JSON.stringify({ ...t.object, metadata: { ...t.object.metadata, ...(t.ns ? { namespace: t.ns } : {}) } }),
});

export default function Create() {
  const ns = param("ns"), may = useMayCreate(ns);
  if (may === false) {
    return <><PageHead title="Create from YAML" /><Empty title={session.value?.readOnly ? "This page only reads" : `${session.value?.user} may not create anything in ${ns || "the namespace default"}`}>
      {!session.value?.readOnly && <p>If you may do so in another namespace, choose it above.</p>}</Empty></>;
  }
  return may ? <Editing /> : <PageHead title="Create from YAML" />;
}

function Editing() {
  const editor = useRef<Editor | undefined>(undefined);
  const [troubles, setTroubles] = useState<Trouble[]>([]);
  const [tried, setTried] = useState<{ target: Target; is: "new" | "changed" }[] | null>(null);
  const [made, setMade] = useState<Target[]>([]);
  const [busy, setBusy] = useState(false);
  const triedText = useRef("");
  const { part: yaml, failure } = usePart("yaml");
  const run = async (apply: boolean) => {
    const text = editor.current?.text();
    if (text === undefined || !yaml) return;
    const dry = !apply || text !== triedText.current; // what has changed since is tried anew
    triedText.current = text;
    setBusy(true);
    setTroubles([]);
    const { objects, troubles: wrong, lineOf } = read(yaml, text);
    const done: { target: Target; is: "new" | "changed" }[] = [];
    let found: Trouble[] = wrong.length || objects.length ? wrong : [{ message: "There is no object here" }];
    for (const [i, object] of (wrong.length ? [] : objects).entries()) {
      try {
        const target = await locate(object, await discover());
        const result = await put(target, dry);
        done.push({ target, is: (result.metadata.generation ?? 1) > 1 ? "changed" : "new" });
      } catch (error) {
        found = [...found, ...(error instanceof Error && !("code" in error) ? [{ message: error.message, line: lineOf("kind", i) }] : troublesOf(error, (path) => lineOf(path, i)))];
        if (!dry) break;
      }
    }
    setTroubles(found);
    setTried(dry && !found.length ? done : null);
    if (!dry) {
      setMade(done.map((d) => d.target));
      if (!found.length) toast(done.length === 1 ? `${done[0]!.target.object.kind} ${done[0]!.target.object.metadata.name} is there` : `${done.length} objects are there`);
    }
    setBusy(false);
  };
  return (
    <>
      <PageHead title="Create from YAML" note="Several objects are separated by ---. What is there already is changed, as kubectl apply --server-side does.">
        {tried && <Button onClick={() => setTried(null)}>Edit</Button>}
        <Button kind="primary" disabled={busy} onClick={() => run(!!tried)}>{busy ? "Working…" : tried ? "Apply" : "Review"}</Button>
      </PageHead>
      <Troubles list={troubles} go={(line) => editor.current?.line(line)} />
      {tried && <Panel title="The API server has tried this, and takes it"><ul class="health">{tried.map(({ target: t, is }) => (
        <li key={t.path}><Status text={`${t.object.kind} ${t.object.metadata.name}`} tone="ok" /><span class="muted">{is === "new" ? "will be made" : "is there and will be changed"}{t.ns && ` in ${t.ns}`}</span></li>
      ))}</ul></Panel>}
      {made.length > 0 && <Panel title="Done"><ul class="health">{made.map((t) => <li key={t.path}><a href={link(pageOf(t.kind, t.ns, t.object.metadata.name))}>{t.object.kind} {t.object.metadata.name}</a></li>)}</ul></Panel>}
      {failure ?? <EditorView doc={example(param("ns"))} label="YAML" editor={editor} done={() => { void run(!!tried); }} />}
    </>
  );
}
