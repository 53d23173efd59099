// Everything that a page shows is in the URL: the path says what, the query how.
import { signal } from "@preact/signals";

export const url = signal(new URL(location.href));

addEventListener("popstate", () => { url.value = new URL(location.href); });

/** go shows another path of this page. */
export function go(to: string, replace = false) {
  const next = new URL(to, location.href);
  if (next.href === location.href) return;
  history[replace ? "replaceState" : "pushState"](null, "", next);
  url.value = next;
}

/** param reads a parameter of the query; "" if it is not there. */
export const param = (name: string): string => url.value.searchParams.get(name) ?? "";

/** setParams changes parameters of the query; "" takes one away. It adds nothing to the history unless it is told to. */
export function setParams(changes: Record<string, string>, push = false) {
  const next = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) {
    if (value) next.searchParams.set(name, value);
    else next.searchParams.delete(name);
  }
  go(next.href, !push);
}

/** link is the URL of a path, in the namespace that is chosen now. */
export function link(path: string, params: Record<string, string> = {}): string {
  const query = new URLSearchParams();
  const ns = param("ns");
  if (ns) query.set("ns", ns);
  for (const [name, value] of Object.entries(params)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

// Links of this page need no new page.
addEventListener("click", (event) => {
  const anchor = (event.target as Element | null)?.closest?.("a");
  if (!anchor || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  if (anchor.target || anchor.hasAttribute("download") || anchor.origin !== location.origin) return;
  if (/^\/(assets|api|auth)\//.test(anchor.pathname)) return;
  event.preventDefault();
  go(anchor.href);
});

const decoded = (part: string): string | null => { try { return decodeURIComponent(part); } catch { return null; } };

/** match compares a path with a pattern such as "/pods/:ns/:name". */
export function match(pattern: string, path: string): Record<string, string> | null {
  const want = pattern.split("/"), have = path.replace(/(.)\/$/, "$1").split("/");
  if (want.length !== have.length) return null;
  const found: Record<string, string> = {};
  for (let i = 0; i < want.length; i++) {
    const w = want[i]!, h = have[i]!;
    if (w.startsWith(":")) {
      const value = decoded(h);
      if (value === null) return null;
      found[w.slice(1)] = value;
    } else if (w !== h) return null;
  }
  return found;
}
