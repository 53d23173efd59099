// The frame around pages: navigation, namespaces, keys, dialogs.
import { useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { core, loadSession, logOut, pathOf, session } from "./api";
import { groupOf } from "./groups";
import { Icon, Mark } from "./icons";
import { idle } from "./keys";
import { old, useTable } from "./live";
import { LogIn } from "./login";
import { pages, type Page } from "./pages";
import { palette, Palette } from "./palette";
import { go, link, match, param, setParams, url } from "./router";
import { Button, Confirm, Empty, Failure, Menu, Modal, PageHead, Toasts } from "./ui";

export function App() {
  const failed = useSignal("");
  useEffect(() => { loadSession().catch((e) => { failed.value = e.message; }); }, []);
  if (failed.value) return <main class="alone"><Failure problem={{ code: 0, message: failed.value }} what="this page"><Button onClick={() => location.reload()}>Try again</Button></Failure></main>;
  if (session.value === undefined) return null;
  if (session.value === null) return <><LogIn /><Toasts /></>;
  return <Shell />;
}

function found(path: string): { page: Page; params: Record<string, string> } | null {
  for (const page of pages) {
    const params = match(page.path, path);
    if (params) return { page, params };
  }
  return null;
}

function Shell() {
  const drawer = useSignal(false);
  const help = useSignal(false);
  const at = found(url.value.pathname);
  useKeys(() => { help.value = true; });
  useEffect(() => { drawer.value = false; }, [url.value.pathname]);
  useEffect(() => { document.title = at && at.page.path !== "/" ? `${Object.values(at.params).pop() ?? at.page.title} · k8sm` : "k8sm"; }, [url.value.pathname]);
  return (
    <div class={`shell ${drawer.value ? "open" : ""}`}>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>To the content</a>
      <nav class="side" aria-label="Pages">
        <a class="brand" href={link("/")}><svg viewBox="0 0 32 32" aria-hidden="true"><rect width="32" height="32" rx="7" /><path d="M16 6l8.7 5v10L16 26l-8.7-5V11zM16 16l8.7-5M16 16v10M16 16l-8.7-5" /></svg>k8sm</a>
        <Navigation />
        <Who onHelp={() => { help.value = true; }} />
      </nav>
      <div class="shade" onClick={() => { drawer.value = false; }} />
      <div class="body">
        <header class="top">
          <span class="only-phone"><Button icon="menu" label="Pages" onClick={() => { drawer.value = !drawer.value; }} /></span>
          {at?.page.global ? <span class="grow" /> : <Namespaces />}
          <Old />
          <button type="button" class="find" onClick={() => { palette.value = true; }}><Icon name="search" /><span>Go to…</span><kbd>Ctrl K</kbd></button>
        </header>
        <main id="main" tabIndex={-1}>
          {at ? <at.page.show key={url.value.pathname} params={at.params} /> : <><PageHead title="There is no such page" /><Empty title="The address may be of another version of km"><a class="button" href={link("/")}>To the overview</a></Empty></>}
        </main>
      </div>
      {palette.value && <Palette />}
      {help.value && <Help onClose={() => { help.value = false; }} />}
      <Confirm />
      <Toasts />
    </div>
  );
}

/** Old says that something on the page is as it was a while ago. */
function Old() {
  const why = old.value;
  return <span class="old" role="status">{why && <span title={why.message}><Mark tone="warn" />not up to date</span>}</span>;
}

function Navigation() {
  const path = url.value.pathname, parts = path.split("/");
  const of = parts[1] === "resources" ? groupOf(parts[4] ?? "", parts[2] ?? "") ?? "/resources" : path; // an object belongs where its kind is a tab
  const groups = useMemo(() => {
    const map = new Map<string, Page[]>();
    for (const p of pages) if (p.nav) map.set(p.nav.group, [...(map.get(p.nav.group) ?? []), p]);
    return [...map];
  }, []);
  return (
    <div class="pages">
      {groups.map(([group, list]) => (
        <div key={group} class="group">
          {group && <h2>{group}</h2>}
          {list.map((p) => (
            <a key={p.path} href={link(p.path)} aria-current={p.path === of || (p.path !== "/" && of.startsWith(p.path + "/")) ? "page" : undefined}>
              <Icon name={p.nav!.icon} />{p.title}{p.nav!.key && <kbd>g {p.nav!.key}</kbd>}
            </a>
          ))}
        </div>
      ))}
    </div>
  );
}

function Who({ onHelp }: { onHelp: () => void }) {
  const s = session.value!;
  return (
    <div class="who">
      <Icon name="user" /><span class="who-name" title={`${s.user}\n${(s.groups ?? []).join(", ")}`}>{s.user}{s.readOnly && <small>read only</small>}</span>
      <Menu label="You">
        <button type="button" class="menu-item" onClick={onHelp}>Keys</button>
        <button type="button" class="menu-item" onClick={() => { void logOut(); }}>Log out</button>
        <a class="menu-item" href="/assets/licenses.txt" target="_blank">Licenses</a>
        <p class="muted">km {s.version}</p>
      </Menu>
    </div>
  );
}

function Namespaces() {
  const feed = useTable(pathOf(core("namespaces")));
  const ns = param("ns");
  const names = feed.items.value.map((r) => r.name);
  // Who may not list them can still name one.
  if (feed.state.value === "ended") {
    return <label class="namespaces"><span>Namespace</span><input value={ns} aria-label="Namespace" placeholder="all" spellcheck={false} onChange={(e) => setParams({ ns: e.currentTarget.value.trim() })} /></label>;
  }
  return (
    <label class="namespaces"><span>Namespace</span>
      <select value={ns} aria-label="Namespace" onChange={(e) => setParams({ ns: e.currentTarget.value }, true)}>
        <option value="">All</option>
        {ns && !names.includes(ns) && <option value={ns}>{ns}</option>}
        {names.map((n) => <option key={n} value={n}>{n}</option>)}
      </select>
    </label>
  );
}

/** useKeys gives the keys that work everywhere. */
function useKeys(help: () => void) {
  useEffect(() => {
    let g = 0;
    const keys = (e: KeyboardEvent) => {
      if ((e.ctrlKey || e.metaKey) && e.key.toLowerCase() === "k") {
        e.preventDefault();
        palette.value = !palette.value;
        return;
      }
      if (!idle(e)) return;
      if (e.key === "?") { help(); return; }
      if (e.key === "/") {
        const field = document.querySelector<HTMLInputElement>("[data-filter]");
        if (field) { e.preventDefault(); field.focus(); field.select(); }
        return;
      }
      if (e.key === "g") { g = Date.now(); return; }
      if (Date.now() - g < 1500) {
        const page = pages.find((p) => p.nav?.key === e.key);
        g = 0;
        if (page) { e.preventDefault(); e.stopImmediatePropagation(); go(link(page.path)); }
      }
    };
    addEventListener("keydown", keys, true);
    return () => removeEventListener("keydown", keys, true);
  }, []);
}

function Help({ onClose }: { onClose: () => void }) {
  const keys: [string, string][] = [
    ["Ctrl K", "Go to a page, a kind or an object"], ["/", "Filter the list"], ["j, k", "Next or previous row"], ["Enter", "Open the row"],
    ["Esc", "Clear the filter, close a dialog"], ["l", "Of a pod: its log"], ["s", "Of a pod: a shell"], ["e", "The YAML"], ...pages.filter((p) => p.nav?.key).map((p): [string, string] => [`g ${p.nav!.key}`, p.title]), ["?", "These keys"],
  ];
  return (
    <Modal title="Keys" onClose={onClose}>
      <h2>Keys</h2>
      <dl class="keys">{keys.map(([k, what]) => <div key={k}><dt>{k.split(" ").map((p) => <kbd key={p}>{p}</kbd>)}</dt><dd>{what}</dd></div>)}</dl>
      <div class="buttons"><Button onClick={onClose} kind="primary">Close</Button></div>
    </Modal>
  );
}
