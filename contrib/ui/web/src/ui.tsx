// Small components that all pages share.
import { signal } from "@preact/signals";
import type { ComponentChildren, JSX, TargetedEvent } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { session } from "./api";
import { age, tone as toneOf } from "./format";
import { Icon, Mark, type IconName } from "./icons";
import type { Feed, Problem } from "./live";

/** now ticks once a second, for ages and countdowns. */
export const now = signal(Date.now());
setInterval(() => { if (document.visibilityState === "visible") now.value = Date.now(); }, 1000);

const darkScheme = matchMedia("(prefers-color-scheme: dark)");

/** dark tells whether the system has dark colours now, for what is no style sheet. */
export const dark = signal(darkScheme.matches);
darkScheme.addEventListener("change", () => { dark.value = darkScheme.matches; });

export const Age = ({ since }: { since: string | undefined }) =>
  <time dateTime={since} title={since && new Date(since).toLocaleString()}>{age(since, now.value)}</time>;

/** Status is a state with an icon for its tone. */
export const Status = ({ text, tone }: { text: string; tone?: string }) => {
  const t = tone ?? toneOf(text);
  return <span class={`status ${t}`}><Mark tone={t} /><span class="text">{text}</span></span>;
};

export interface ButtonProps {
  icon?: IconName;
  children?: ComponentChildren;
  onClick?: () => void;
  /** label names a button that has an icon only. */
  label?: string;
  kind?: "plain" | "primary" | "danger";
  disabled?: boolean;
  pressed?: boolean;
  title?: string;
  type?: "submit" | "button";
}

export const Button = ({ icon, children, label, kind = "plain", pressed, title, type = "button", ...rest }: ButtonProps) => (
  <button type={type} class={`button ${kind}${children ? "" : " bare"}`} aria-label={label} title={title ?? label} aria-pressed={pressed} {...rest}>
    {icon && <Icon name={icon} />}{children}
  </button>
);

/** PageHead is the top of a page: its name, what it is about, and what can be done. */
export const PageHead = ({ title, above, note, children }: { title: ComponentChildren; above?: ComponentChildren; note?: ComponentChildren; children?: ComponentChildren }) => (
  <header class="page-head">
    <div class="page-title">
      {above && <p class="above">{above}</p>}
      <h1>{title}</h1>
      {note && <div class="note">{note}</div>}
    </div>
    {children && <div class="actions">{children}</div>}
  </header>
);

export const Panel = ({ title, note, children, class: name = "" }: { title?: ComponentChildren; note?: ComponentChildren; children: ComponentChildren; class?: string }) => (
  <section class={`panel ${name}`}>
    {title && <header><h2>{title}</h2>{note && <span class="muted">{note}</span>}</header>}
    {children}
  </section>
);

/** Facts are names with values. */
export const Facts = ({ facts }: { facts: [string, ComponentChildren][] }) => (
  <dl class="facts">{facts.filter(([, v]) => v !== undefined && v !== null && v !== false && v !== "").map(([k, v]) => <div key={k}><dt>{k}</dt><dd>{v}</dd></div>)}</dl>
);

export const Empty = ({ title, children }: { title: string; children?: ComponentChildren }) => (
  <div class="empty"><p class="empty-title">{title}</p>{children && <div>{children}</div>}</div>
);

/** Loading is what is shown before anything is known of a page. */
export const Loading = () => <div class="skeleton" role="status" aria-label="Loading">{Array.from({ length: 8 }, (_, i) => <i key={i} />)}</div>;

/** sentence says what went wrong, and what to do. */
export function sentence(problem: Problem, what: string): string {
  switch (problem.code) {
    case 403: return `${session.value?.user ?? "You"} may not see ${what}. ${problem.message}`;
    case 404: return `Cannot find ${what}. ${problem.message}`;
    case 0: return problem.message;
  }
  return `Cannot show ${what}: ${problem.message}`;
}

export const Failure = ({ problem, what, children }: { problem: Problem; what: string; children?: ComponentChildren }) => (
  <div class="empty failure" role="alert">
    <p class="empty-title"><Mark tone={problem.code === 403 ? "warn" : "bad"} />{problem.code === 403 ? "You may not see this" : problem.code === 404 ? "Not there" : "That did not work"}</p>
    <p>{sentence(problem, what)}</p>
    {children}
  </div>
);

/** Live tells whether what the page shows follows the cluster. */
export function Live({ feed }: { feed: Feed<any> }) {
  const state = feed.state.value;
  const text = state === "live" ? "live" : state === "loading" ? "loading…" : state === "ended" ? "ended" : "reconnecting…";
  return <span class={`live ${state}`} role="status" title={feed.problem.value?.message}><Mark tone={state === "live" ? "ok" : state === "loading" ? "busy" : "warn"} />{text}</span>;
}

// Toasts: what was done, or why not.
interface Toast { id: number; text: string; bad: boolean }
const toasts = signal<Toast[]>([]);
let lastToast = 0;

export function toast(text: string, bad = false) {
  const id = ++lastToast;
  toasts.value = [...toasts.value.slice(-3), { id, text, bad }];
  setTimeout(() => { toasts.value = toasts.value.filter((t) => t.id !== id); }, bad ? 12000 : 5000);
}

export const Toasts = () => (
  <div class="toasts" role="status" aria-live="polite">
    {toasts.value.map((t) => (
      <div key={t.id} class={`toast ${t.bad ? "bad" : ""}`}>
        <Mark tone={t.bad ? "bad" : "ok"} /><span>{t.text}</span>
        <Button icon="close" label="Dismiss" onClick={() => { toasts.value = toasts.value.filter((o) => o.id !== t.id); }} />
      </div>
    ))}
  </div>
);

/** attempt does something and says how it went. It returns whether it worked. */
export async function attempt(doing: () => Promise<unknown>, done: string): Promise<boolean> {
  try {
    await doing();
    toast(done);
    return true;
  } catch (error: any) {
    toast(error.message ?? String(error), true);
    return false;
  }
}

/** Modal is a dialog that the browser keeps the focus in. */
export function Modal({ title, onClose, children, class: name = "" }: { title: string; onClose: () => void; children: ComponentChildren; class?: string }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null;
    ref.current?.showModal();
    return () => before?.focus?.();
  }, []);
  return (
    <dialog ref={ref} class={`modal ${name}`} aria-label={title} onClose={onClose}
      onClick={(e) => { if (e.target === ref.current) onClose(); }}>
      {children}
    </dialog>
  );
}

export interface Confirmation {
  title: string;
  /** says is what will happen. */
  says: ComponentChildren;
  /** action is the button's text. */
  action: string;
  danger?: boolean;
  /** type is what the user must type first; for what cannot be undone and is large. */
  type?: string;
  /** body are further fields. */
  body?: ComponentChildren;
  do: () => Promise<unknown>;
  done: string;
}

const asking = signal<Confirmation | null>(null);
let asked = 0;

/** confirm says what an action will do, and does it when the user agrees. */
export function confirm(c: Confirmation) { asked++; asking.value = c; }

export function Confirm() {
  const c = asking.value;
  if (!c) return null;
  return <Asking key={asked} c={c} />; // the same question again is another dialog: this one may be about to close
}

function Asking({ c }: { c: Confirmation }) {
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const close = () => { if (asking.value === c) asking.value = null; };
  const submit = async (e: TargetedEvent<HTMLFormElement, Event>) => {
    e.preventDefault();
    setBusy(true);
    const worked = await attempt(c.do, c.done);
    setBusy(false);
    if (worked) close();
  };
  return (
    <Modal title={c.title} onClose={close}>
      <form onSubmit={submit}>
        <h2>{c.title}</h2>
        <div class="says">{c.says}</div>
        {c.body}
        {c.type && <label class="field"><span>Type <strong>{c.type}</strong> to go on</span>
          <input value={typed} onInput={(e) => setTyped(e.currentTarget.value)} autocomplete="off" spellcheck={false} /></label>}
        <div class="buttons">
          <Button onClick={close}>Cancel</Button>
          <Button type="submit" kind={c.danger ? "danger" : "primary"} disabled={busy || (!!c.type && typed !== c.type)}>{busy ? "Working…" : c.action}</Button>
        </div>
      </form>
    </Modal>
  );
}

/** Tabs are links: which one is open is in the URL. */
export const Tabs = ({ tabs, now: open, href }: { tabs: [string, string][]; now: string; href: (tab: string) => string }) => (
  <nav class="tabs" aria-label="Views">
    {tabs.map(([id, name]) => <a key={id} href={href(id)} aria-current={id === open ? "page" : undefined}>{name}</a>)}
  </nav>
);

export async function copy(text: string, what: string) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`Copied ${what}`);
  } catch {
    toast("The browser does not let this page copy: select the text instead", true);
  }
}

/** Copyable is a text that one click copies. */
export const Copyable = ({ text, what }: { text: string; what: string }) => (
  <span class="copyable"><code>{text}</code><Button icon="copy" label={`Copy ${what}`} onClick={() => copy(text, what)} /></span>
);

/** Menu is a button with a list of actions. */
export function Menu({ icon = "more", label, children }: { icon?: IconName; label: string; children: ComponentChildren }) {
  const ref = useRef<HTMLDetailsElement>(null);
  useEffect(() => {
    const close = (e: Event) => {
      const at = ref.current;
      if (at?.open && (e instanceof KeyboardEvent ? e.key === "Escape" : !at.contains(e.target as Node))) at.open = false;
    };
    addEventListener("pointerdown", close);
    addEventListener("keydown", close);
    return () => { removeEventListener("pointerdown", close); removeEventListener("keydown", close); };
  }, []);
  return <details class="menu" ref={ref}><summary class="button bare" aria-label={label} title={label}><Icon name={icon} /></summary><div class="menu-list">{children}</div></details>;
}

export interface Part { name: string; value: number; tone: string; text: string }

/** Bar shows parts of a whole. The legend has the numbers, so that the colours need not be told apart. */
export function Bar({ parts, total, label }: { parts: Part[]; total: number; label: string }) {
  return (
    <div class="bar-of">
      <svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label={`${label}: ${parts.map((p) => `${p.name} ${p.text}`).join(", ")}`}>
        <rect width="1000" height="10" class="rest" />
        {parts.reduce<{ at: number; drawn: JSX.Element[] }>((sum, p) => {
          const width = total > 0 ? Math.max(0, Math.min(1000 - sum.at, (p.value / total) * 1000)) : 0;
          sum.drawn.push(<rect key={p.name} x={sum.at} width={Math.max(0, width - 2)} height="10" class={p.tone} />);
          return { at: sum.at + width, drawn: sum.drawn };
        }, { at: 0, drawn: [] }).drawn}
      </svg>
      <ul class="legend">{parts.map((p) => <li key={p.name}><i class={p.tone} />{p.name} <b>{p.text}</b></li>)}</ul>
    </div>
  );
}

/** Spark draws a small line of values from old to new. Its number is beside it, so it has no name of its own. */
export function Spark({ line }: { line: (number | null)[] }) {
  const most = Math.max(...line.map((v) => v ?? 0)) || 1, last = line.length - 1;
  const pieces: string[] = [];
  let piece: string[] = [];
  line.forEach((v, i) => {
    if (v !== null) piece.push(`${((i / last) * 60).toFixed(1)},${(15 - (v / most) * 13).toFixed(1)}`);
    if (v !== null && i < last) return;
    // One value alone is a dash.
    if (piece.length === 1) piece.push(piece[0]!.replace(/^[\d.]+/, (x) => String(Number(x) + 2)));
    if (piece.length) pieces.push(piece.join(" "));
    piece = [];
  });
  return <svg class="spark" viewBox="0 0 60 16" aria-hidden="true"><path d="M0 15.5h60" class="ground" />{pieces.map((p) => <polyline key={p} points={p} />)}</svg>;
}
