// The large libraries are files of their own in lazy/, which import nothing of this page. They are loaded when they are first needed.
import { useEffect, useState } from "preact/hooks";
import { ApiError, pause } from "./api";
import { Button, Failure } from "./ui";
import type * as editor from "./lazy/editor";
import type * as plot from "./lazy/plot";
import type * as xterm from "./lazy/xterm";
import type * as yaml from "./lazy/yaml";

export type YAML = typeof yaml;
interface Parts { editor: typeof editor; plot: typeof plot; xterm: typeof xterm; yaml: YAML }

/** lazyFiles are the parts' paths. The program that bundles the page replaces it. */
declare const lazyFiles: Record<keyof Parts, string>;

const attempts = 4;
const found = new Map<keyof Parts, Promise<any>>();
const failures = new Map<keyof Parts, number>();

/** load loads a part. What the network loses is asked for again. */
export function load<K extends keyof Parts>(name: K): Promise<Parts[K]> {
  if (!found.has(name)) found.set(name, fetched(name).catch((error) => { found.delete(name); throw error; }));
  return found.get(name)!;
}

async function fetched(name: keyof Parts): Promise<unknown> {
  for (let failed = 0; ; failed++) {
    const before = failures.get(name) ?? 0;
    try {
      // Browsers of before the summer of 2026 remember for good that a module of a URL could not be fetched
      // (https://github.com/whatwg/html/pull/10327), so each attempt has another.
      return await import(lazyFiles[name] + (before ? `?again=${before}` : ""));
    } catch {
      failures.set(name, before + 1);
      if (failed + 1 === attempts) throw new ApiError(0, "A part of this page could not be loaded. If it still cannot after a while, km may have been replaced: reload the page.");
      await pause(failed);
    }
  }
}

/** usePart is a part of the page once it is loaded, or what to show if that failed. */
export function usePart<K extends keyof Parts>(name: K) {
  const [state, set] = useState<{ part?: Parts[K]; message?: string; run: number }>({ run: 0 });
  useEffect(() => {
    let over = false;
    load(name).then((part) => { if (!over) set({ part, run: state.run }); }, (error) => { if (!over) set({ message: error.message, run: state.run }); });
    return () => { over = true; };
  }, [name, state.run]);
  const failure = state.message ? (
    <Failure problem={{ code: 0, message: state.message }} what="this"><Button onClick={() => set({ run: state.run + 1 })}>Try again</Button><Button onClick={() => location.reload()}>Reload</Button></Failure>
  ) : null;
  return { part: state.part, failure };
}
