// Keys that do something where nobody types.
import { useEffect } from "preact/hooks";

/** typing tells whether keys go to a field, an editor or a terminal. */
function typing(target: EventTarget | null): boolean {
  return target instanceof Element && !!target.closest("input,textarea,select,[contenteditable=true],.xterm,.cm-editor");
}

/** idle tells whether a key is nobody else's. */
export const idle = (e: KeyboardEvent): boolean =>
  !e.defaultPrevented && !e.ctrlKey && !e.metaKey && !e.altKey && !typing(e.target) && !document.querySelector("dialog[open]");

/** useKey does something when a key is pressed; null does nothing. */
export function useKey(key: string, action: (() => void) | null) {
  useEffect(() => {
    if (!action) return;
    const pressed = (e: KeyboardEvent) => {
      if (e.key !== key || !idle(e)) return;
      e.preventDefault();
      action();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
}
