// CodeMirror, in the page's colours. It is loaded when it is needed.
import { yaml } from "@codemirror/lang-yaml";
import { syntaxHighlighting } from "@codemirror/language";
import { MergeView } from "@codemirror/merge";
import { EditorView, keymap } from "@codemirror/view";
import { classHighlighter } from "@lezer/highlight";
import { basicSetup } from "codemirror";

const look = EditorView.theme({
  "&": { backgroundColor: "var(--panel)", color: "var(--text)", height: "100%", fontSize: "12.5px" },
  ".cm-content": { fontFamily: "var(--mono)", caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--panel)", color: "var(--muted)", border: "none" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "color-mix(in srgb, var(--accent) 8%, transparent)" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-2px" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": { backgroundColor: "var(--accent-soft)" },
  ".cm-panels": { backgroundColor: "var(--raised)", color: "var(--text)" },
  ".cm-tooltip": { backgroundColor: "var(--raised)", border: "1px solid var(--line)" },
  ".cm-collapsedLines": { background: "var(--sunken)", color: "var(--muted)", "&:before, &:after": { content: '""', margin: "0" } },
});

// Text over a selection is put in here: browsers would keep the selection's looks in style attributes, which the page's policy forbids.
const overSelection = EditorView.domEventHandlers({
  beforeinput: (e, view) => {
    if (e.inputType !== "insertText" || e.data === null || e.isComposing || view.state.selection.main.empty || view.state.readOnly) return false;
    view.dispatch(view.state.replaceSelection(e.data), { userEvent: "input.type", scrollIntoView: true });
    e.preventDefault();
    return true;
  },
});

const shared = [basicSetup, yaml(), syntaxHighlighting(classHighlighter), look, EditorView.lineWrapping, overSelection];

export interface Editor {
  text(): string;
  /** line goes to a line, the first of which is 1. */
  line(n: number): void;
  destroy(): void;
}

/** edit makes an editor in an element. Ctrl-Enter calls done. */
export function edit(parent: HTMLElement, doc: string, label: string, done: () => void): Editor {
  const view = new EditorView({
    parent, doc,
    extensions: [keymap.of([{ key: "Mod-Enter", run: () => { done(); return true; } }]), ...shared, EditorView.contentAttributes.of({ "aria-label": label, tabindex: "0" })],
  });
  return {
    text: () => view.state.doc.toString(),
    line: (n) => {
      const at = view.state.doc.line(Math.max(1, Math.min(n, view.state.doc.lines)));
      view.dispatch({ selection: { anchor: at.from, head: at.to }, effects: EditorView.scrollIntoView(at.from, { y: "center" }) });
      view.focus();
    },
    destroy: () => view.destroy(),
  };
}

/** compare shows two texts side by side. With an own one, the right text can be changed, and parts of the left taken. */
export function compare(parent: HTMLElement, left: string, right: string, own = false): { text(): string; destroy(): void } {
  const read = [...shared, EditorView.editable.of(false)];
  const view = new MergeView({
    parent, a: { doc: left, extensions: [...read, EditorView.contentAttributes.of({ "aria-label": "Before", tabindex: "0" })] },
    b: { doc: right, extensions: [...(own ? shared : read), EditorView.contentAttributes.of({ "aria-label": "After", tabindex: "0" })] },
    collapseUnchanged: { margin: 3, minSize: 6 }, gutter: true, ...(own ? { revertControls: "a-to-b" as const } : {}),
  });
  return { text: () => view.b.state.doc.toString(), destroy: () => view.destroy() };
}
