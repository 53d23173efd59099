// Edit an object as YAML: the API server tries the change first, the page shows what would differ, and then it is made.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, k8s, send, type KubeObject } from "./api";
import { Mark } from "./icons";
import { usePart, type YAML } from "./lazy";
import type { Editor } from "./lazy/editor";
import { edited, useObjects } from "./live";
import { Button, copy, toast } from "./ui";
import { toYAML } from "./yaml";

/** Trouble is what is wrong with a text, and where. */
export interface Trouble { message: string; line?: number }

/** read parses a document. Troubles have the line. */
export function read({ LineCounter, parseAllDocuments, isNode }: YAML, text: string): { objects: KubeObject[]; troubles: Trouble[]; lineOf: (path: string, index?: number) => number | undefined } {
  const lines = new LineCounter();
  const parsed = parseAllDocuments(text, { lineCounter: lines, prettyErrors: true });
  const documents = Array.isArray(parsed) ? parsed : [];
  const troubles = documents.flatMap((d) => d.errors.map((e): Trouble => ({ message: e.message.split("\n")[0]!, line: e.linePos?.[0].line })));
  const full = documents.filter((d) => d.contents !== null);
  return {
    troubles, objects: troubles.length ? [] : full.map((d) => d.toJS() as KubeObject),
    lineOf: (path, index = 0) => {
      // A field is called spec.containers[0].image, or .spec.containers[name="a"].image. What is missing is looked for in what is above it.
      let node: unknown = full[index]?.contents, line: number | undefined;
      for (const [part] of [[""], ...path.matchAll(/\[[^\]]+\]|[^.[\]]+/g)]) {
        if (part) node = child(node, part.replace(/^\[|\]$/g, ""));
        if (!isNode(node) || !node.range) break;
        line = lines.linePos(node.range[0]).line;
      }
      return line;
    },
  };
}

/** child is what a part of a field's name leads to: a key, an index, or key="value" of an item of a list. */
function child(node: any, part: string): unknown {
  const [, key, value] = /^([^=]+)="(.*)"$/.exec(part) ?? [];
  if (key) return node?.items?.find((item: any) => item?.get?.(key) === value);
  return node?.get?.(/^\d+$/.test(part) ? Number(part) : part, true);
}

/** fieldsIn are fields that only a message names: those that the API server does not know. */
const fieldsIn = (message: string): string[] => [...message.matchAll(/unknown field "([^"]+)"|(?:^|\s)\.(\S+): field not declared/g)].map((m) => m[1] ?? m[2]!);

/** troublesOf are those that the API server found. */
export function troublesOf(error: unknown, lineOf: (path: string) => number | undefined): Trouble[] {
  if (!(error instanceof ApiError)) return [{ message: String(error) }];
  const causes = error.status?.details?.causes?.filter((c) => c.field) ?? [];
  const unknown = fieldsIn(error.message);
  if (unknown.length) return unknown.map((field) => ({ message: `${field}: there is no such field`, line: lineOf(field) }));
  if (!causes.length) return [{ message: error.message }];
  return causes.map((c) => ({ message: `${c.field}: ${c.message}`, line: lineOf(c.field!) }));
}

export const Troubles = ({ list, go }: { list: Trouble[]; go: (line: number) => void }) => (
  list.length ? <div role="alert"><ul class="troubles">{list.map((t, i) => (
    <li key={i}><Mark tone="bad" /><span>{t.message}</span>{t.line && <button type="button" class="button" onClick={() => go(t.line!)}>line {t.line}</button>}</li>
  ))}</ul></div> : null
);

/** editable is what a person can change of an object. */
export function editable(object: KubeObject): KubeObject {
  const { status: _, ...rest } = object;
  const metadata: Record<string, unknown> = { ...object.metadata };
  for (const name of ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"]) delete metadata[name];
  return { ...rest, metadata: metadata as unknown as KubeObject["metadata"] };
}

interface Review { before: string; after: string; object: KubeObject }

/** EditYAML edits an object at a path. kind is for an object that came from a list. */
export function EditYAML({ path, object, close }: { path: string; object: KubeObject; close: () => void }) {
  const [base, setBase] = useState(object);
  useEffect(() => { edited.value = object.metadata.uid; return () => { edited.value = ""; }; }, []);
  const [theirs, setTheirs] = useState<KubeObject | null>(null); // what somebody else made of it meanwhile
  const [review, setReview] = useState<Review | null>(null);
  const [troubles, setTroubles] = useState<Trouble[]>([]);
  const [busy, setBusy] = useState(false);
  const [text, setText] = useState<string | null>(null);
  const editor = useRef<Editor | undefined>(undefined);
  const { part: yaml, failure } = usePart("yaml");
  useEffect(() => { if (yaml && text === null) setText(toYAML(yaml, editable(object))); }, [yaml]);

  const fail = async (error: unknown, lineOf: (path: string) => number | undefined) => {
    try {
      if (!(error instanceof ApiError && error.code === 409)) throw error;
      setTheirs(await k8s<KubeObject>(path));
    } catch (final) {
      setTroubles(troublesOf(final, lineOf));
    }
  };
  const put = (changed: KubeObject, on: KubeObject, dry: boolean) => send<KubeObject>("PUT", `${path}?fieldManager=km-ui&fieldValidation=Strict${dry ? "&dryRun=All" : ""}`, {
    ...changed, metadata: { ...changed.metadata, uid: on.metadata.uid, resourceVersion: on.metadata.resourceVersion },
  });
  const tryIt = async () => {
    const now = editor.current?.text();
    if (now === undefined || !yaml) return;
    setBusy(true);
    setTroubles([]);
    const { objects: [changed], troubles: wrong, lineOf } = read(yaml, now);
    if (!changed) setTroubles(wrong.length ? wrong : [{ message: "There is no object here" }]);
    else {
      try {
        const result = await put(changed, base, true);
        setText(now);
        setReview({ before: toYAML(yaml, editable(base)), after: toYAML(yaml, editable({ ...result, apiVersion: changed.apiVersion, kind: changed.kind })), object: changed });
      } catch (error) {
        setText(now);
        await fail(error, lineOf);
      }
    }
    setBusy(false);
  };
  const apply = async () => {
    setBusy(true);
    try {
      await put(review!.object, base, false);
      toast(`${base.kind} ${base.metadata.name} is changed`);
      close();
    } catch (error) {
      setReview(null);
      await fail(error, () => undefined);
    }
    setBusy(false);
  };
  const go = (line: number) => editor.current?.line(line);
  const at = path.lastIndexOf("/");
  const now = useObjects<KubeObject>(`${path.slice(0, at)}?fieldSelector=metadata.name%3D${path.slice(at + 1)}`);
  const gone = now.state.value === "live" && now.items.value[0]?.metadata.uid !== base.metadata.uid;

  if (failure) return failure;
  if (!yaml || text === null) return <p class="muted">Loading…</p>;
  if (theirs) return <Conflict theirs={toYAML(yaml, editable({ ...theirs, apiVersion: base.apiVersion, kind: base.kind }))} mine={text} use={(merged) => { setBase({ ...theirs, apiVersion: base.apiVersion, kind: base.kind }); setText(merged); setTheirs(null); }} />;
  if (review) {
    const same = review.before === review.after;
    return (
      <div class="edit">
        <div class="toolbar"><strong>{same ? "This changes nothing" : "This will change"}</strong><span class="muted">as the API server has tried it</span><span class="grow" />
          <Button onClick={() => setReview(null)}>Back</Button>{!same && <Button kind="primary" onClick={apply} disabled={busy}>{busy ? "Working…" : "Apply"}</Button>}</div>
        <Compare left={review.before} right={review.after} />
      </div>
    );
  }
  return (
    <div class="edit">
      <div class="toolbar"><span class="muted">The API server tries the change before it is made.</span><span class="grow" />
        <Button onClick={close}>Cancel</Button><Button kind="primary" onClick={tryIt} disabled={busy} title="Ctrl Enter">{busy ? "Trying…" : "Review"}</Button></div>
      {gone && <p class="problem" role="alert"><Mark tone="warn" />{base.kind} {base.metadata.name} was deleted meanwhile. What you wrote is still here: you can copy it, and create it anew.
        <Button icon="copy" onClick={() => copy(editor.current?.text() ?? text, "what you wrote")}>Copy</Button></p>}
      <Troubles list={troubles} go={go} />
      <EditorView doc={text} label={`YAML of ${base.metadata.name}`} editor={editor} done={tryIt} />
    </div>
  );
}

/** EditorView is an editor, which a page reads by the reference. */
export function EditorView({ doc, label, editor, done }: { doc: string; label: string; editor: { current?: Editor }; done: () => void }) {
  const at = useRef<HTMLDivElement>(null);
  const latest = useRef(done);
  latest.current = done;
  const { part, failure } = usePart("editor");
  useEffect(() => {
    if (!part) return;
    editor.current = part.edit(at.current!, doc, label, () => latest.current());
    return () => { editor.current?.destroy(); editor.current = undefined; };
  }, [part]);
  return failure ?? <div class="editor" ref={at} />;
}

/** Compare shows what differs between two texts. */
export function Compare({ left, right, own, read: out }: { left: string; right: string; own?: boolean; read?: { current?: () => string } }) {
  const at = useRef<HTMLDivElement>(null);
  const { part, failure } = usePart("editor");
  useEffect(() => {
    if (!part) return;
    const view = part.compare(at.current!, left, right, own);
    if (out) out.current = view.text;
    return () => view.destroy();
  }, [part, left, right]);
  return failure ?? <div class="compare" ref={at} />;
}

/** Conflict has somebody else's change and one's own side by side. */
function Conflict({ theirs, mine, use }: { theirs: string; mine: string; use: (text: string) => void }) {
  const merged = useRef<(() => string) | undefined>(undefined);
  return (
    <div class="edit">
      <div class="toolbar"><strong>Somebody has changed it meanwhile</strong><span class="muted">Left is how it is now, right is yours. The arrows take parts from the left.</span><span class="grow" />
        <Button kind="primary" onClick={() => use(merged.current?.() ?? mine)}>Go on with the right side</Button></div>
      <Compare left={theirs} right={mine} own read={merged} />
    </div>
  );
}
