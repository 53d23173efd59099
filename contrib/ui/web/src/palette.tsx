// Ctrl-K: go to a page, a kind of objects, or an object.
import { signal } from "@preact/signals";
import { useEffect, useMemo, useState } from "preact/hooks";
import { core, discover, pageOf, pathOf, type Resource } from "./api";
import { Icon, type IconName } from "./icons";
import { useTable } from "./live";
import { pages } from "./pages";
import { go, link } from "./router";
import { Modal } from "./ui";

export const palette = signal(false);

interface Target { name: string; note: string; icon: IconName; href: string }

export function Palette() {
  const [text, setText] = useState("");
  const [at, setAt] = useState(0);
  const [kinds, setKinds] = useState<Resource[]>([]);
  const pods = useTable(pathOf(core("pods")));
  const namespaces = useTable(pathOf(core("namespaces")));
  useEffect(() => { discover().then(setKinds, () => {}); }, []);
  const close = () => { palette.value = false; };
  const all = useMemo(() => {
    const targets: Target[] = pages.filter((p) => p.nav).map((p) => ({ name: p.title, note: "page", icon: p.nav!.icon, href: link(p.path) }));
    for (const r of kinds) if (r.verbs.includes("list")) targets.push({ name: r.plural, note: `${r.kind}${r.group ? ` · ${r.group}` : ""}${r.short.length ? ` · ${r.short.join(", ")}` : ""}`, icon: "resources", href: link(pageOf(r)) });
    for (const n of namespaces.items.value) targets.push({ name: n.name, note: "namespace", icon: "config", href: link("/pods", { ns: n.name }) });
    for (const p of pods.items.value) targets.push({ name: p.name, note: `pod in ${p.ns}`, icon: "pods", href: link(pageOf(core("pods"), p.ns, p.name)) });
    return targets;
  }, [kinds, pods.items.value, namespaces.items.value]);
  const shown = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return all.map((t) => {
      const name = t.name.toLowerCase(), note = t.note.toLowerCase();
      let rank = 0;
      for (const w of words) {
        if (name === w) rank += 4;
        else if (name.startsWith(w)) rank += 3;
        else if (name.includes(w)) rank += 2;
        else if (note.includes(w)) rank += 1;
        else return null;
      }
      return { t, rank };
    }).filter((x) => x !== null).sort((a, b) => b.rank - a.rank).slice(0, 12).map((x) => x.t);
  }, [all, text]);
  const pick = (t: Target | undefined) => { if (t) { close(); go(t.href); } };
  return (
    <Modal title="Go to" onClose={close} class="palette">
      <input autofocus role="combobox" aria-expanded="true" aria-controls="palette-list" aria-activedescendant={shown.length ? `palette-${at}` : undefined} aria-label="Go to"
        placeholder="A page, a kind, a namespace, a pod…" value={text} spellcheck={false} autocomplete="off"
        onInput={(e) => { setText(e.currentTarget.value); setAt(0); }}
        onKeyDown={(e) => {
          if (e.key === "ArrowDown") setAt(Math.min(at + 1, shown.length - 1));
          else if (e.key === "ArrowUp") setAt(Math.max(at - 1, 0));
          else if (e.key === "Enter") pick(shown[at]);
          else return;
          e.preventDefault();
        }} />
      <ul id="palette-list" role="listbox" aria-label="Targets">
        {shown.map((t, i) => (
          <li key={t.href + t.note} id={`palette-${i}`} role="option" aria-selected={i === at} onMouseMove={() => setAt(i)} onClick={() => pick(t)}>
            <Icon name={t.icon} /><span class="name">{t.name}</span><span class="muted">{t.note}</span>
          </li>
        ))}
        {!shown.length && <li class="muted none">Nothing is called that</li>}
      </ul>
    </Modal>
  );
}
