// An object as YAML. Values of Secrets are hidden until somebody asks.
import { useMemo, useState } from "preact/hooks";
import type { KubeObject } from "./api";
import { EditYAML } from "./edit";
import { usePart, type YAML } from "./lazy";
import { Button, copy } from "./ui";

/** visible replaces the values of a Secret, also in what kubectl apply keeps of it. */
export function visible(object: KubeObject): KubeObject {
  if (object.kind !== "Secret") return object;
  const hide = (values?: Record<string, string>) => values && Object.fromEntries(Object.entries(values).map(([k, v]) => [k, `••• (${Math.floor(v.length * 3 / 4)} bytes)`]));
  const metadata = { ...object.metadata, annotations: object.metadata.annotations && { ...object.metadata.annotations } };
  delete metadata.annotations?.["kubectl.kubernetes.io/last-applied-configuration"];
  return { ...object, metadata, data: hide(object.data), stringData: hide(object.stringData) };
}

export const toYAML = (yaml: YAML, object: unknown): string => yaml.stringify(object, { lineWidth: 0, aliasDuplicateObjects: false });

/** YAMLView shows an object, and edits it at its path if it may be changed. */
export function YAMLView({ object, path }: { object: KubeObject; path?: string }) {
  const [shown, setShown] = useState(false);
  const [editing, setEditing] = useState(false);
  const { part, failure } = usePart("yaml");
  const secret = object.kind === "Secret";
  const what = useMemo(() => (shown ? object : visible(object)), [object, shown]);
  const text = useMemo(() => (part ? toYAML(part, what) : ""), [part, what]);
  if (editing && path) return <EditYAML path={path} object={object} close={() => setEditing(false)} />;
  if (failure) return failure;
  return (
    <div class="yaml">
      <div class="toolbar">
        {secret && <Button onClick={() => setShown(!shown)} pressed={shown}>{shown ? "Hide values" : "Show values"}</Button>}
        <span class="grow" />
        <Button icon="copy" onClick={() => copy(text, "the YAML")}>Copy</Button>
        {path && <Button icon="edit" onClick={() => setEditing(true)} title={secret ? "This shows the values" : undefined}>Edit</Button>}
      </div>
      <pre class="code" tabIndex={0} aria-label="YAML">{text.split("\n").map((line, i) => <Line key={i} text={line} />)}</pre>
    </div>
  );
}

/** Line colours the key, a comment, and what is no plain string. */
function Line({ text }: { text: string }) {
  const m = /^(\s*(?:- )*)("[^"]*"|[\w./$-][^:#\s]*(?: [^:#\s]+)*)(:)(\s.*|$)/.exec(text);
  if (!m) return <>{text}{"\n"}</>;
  const value = m[4]!.trim();
  const kind = /^(true|false|null|-?\d[\d.]*)$/.test(value) ? "number" : /^["']/.test(value) ? "string" : "";
  return <>{m[1]}<span class="key">{m[2]}</span>{m[3]}<span class={kind}>{m[4]}</span>{"\n"}</>;
}
