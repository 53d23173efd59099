// A shell in a container: xterm over the exec WebSocket (v5.channel.k8s.io).
import type { Terminal } from "@xterm/xterm";
import { useEffect, useRef, useState } from "preact/hooks";
import { core, pathOf } from "./api";
import { load } from "./lazy";
import { param, setParams } from "./router";
import { Button, copy, toast } from "./ui";

// What the first byte of a message says
// (https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-transitions and the protocol's package remotecommand).
const enum Channel { Stdin, Stdout, Stderr, Error, Resize, Close = 255 }

const shell = ["sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash || exec sh"];

export function TerminalView({ ns, pod, containers }: { ns: string; pod: string; containers: string[] }) {
  const container = containers.includes(param("container")) ? param("container") : containers[0]!;
  const [run, setRun] = useState(0);
  const [ended, setEnded] = useState("");
  const [selected, setSelected] = useState(false);
  const shown = useRef<Terminal | null>(null);
  const at = useRef<HTMLDivElement>(null);
  useEffect(() => {
    setEnded("");
    let stop = () => {}, over = false;
    open(at.current!, { ns, pod, container, ended: setEnded, selected: setSelected }).then(
      (s) => { if (over) s.stop(); else { stop = s.stop; shown.current = s.terminal; } }, (error) => { if (!over) setEnded(error.message); });
    return () => { over = true; shown.current = null; stop(); };
  }, [ns, pod, container, run]);
  return (
    <div class="terminal-page">
      <div class="toolbar">
        {containers.length > 1 && <label class="select"><span>Container</span><select value={container} onChange={(e) => setParams({ container: e.currentTarget.value })}>{containers.map((c) => <option key={c}>{c}</option>)}</select></label>}
        <span class="muted" role="status">{ended}</span>
        <span class="grow" />
        <span class="muted small only-wide"><kbd>Ctrl Shift C</kbd> copies, <kbd>Ctrl Shift V</kbd> pastes</span>
        {selected && <Button icon="copy" onClick={() => copySelection(shown.current)}>Copy</Button>}
        {!ended && <Button icon="paste" onClick={() => { void pasteInto(shown.current); }}>Paste</Button>}
        {ended && <Button icon="restart" onClick={() => setRun(run + 1)}>Again</Button>}
      </div>
      <div class="screen" ref={at} />
    </div>
  );
}

function copySelection(terminal: Terminal | null) {
  if (!terminal?.hasSelection()) return;
  void copy(terminal.getSelection(), "the selection");
  terminal.clearSelection();
  terminal.focus();
}

async function pasteInto(terminal: Terminal | null) {
  try {
    terminal?.paste(pasted(await navigator.clipboard.readText()));
    terminal?.focus();
  } catch {
    toast("The browser does not let this page read the clipboard: press Ctrl Shift V instead", true);
  }
}

// Control characters in what is pasted could type a key or end a bracketed paste, so that a shell runs the rest.
// eslint-disable-next-line no-control-regex
const pasted = (text: string) => text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g, "");

/** clipboard lets people copy and paste, by keys too. The browser itself sends the paste for Ctrl Shift V and Shift Insert. */
function clipboard(at: HTMLElement, terminal: Terminal) {
  terminal.attachCustomKeyEventHandler((e) => {
    const c = e.ctrlKey && !e.altKey && !e.metaKey && e.code === "KeyC";
    // Ctrl C without a selection is the shell's.
    if (!c || !(e.shiftKey || terminal.hasSelection())) return true;
    e.preventDefault();
    if (e.type === "keydown") copySelection(terminal);
    return false;
  });
  at.addEventListener("paste", (e) => {
    e.preventDefault();
    e.stopPropagation();
    terminal.paste(pasted(e.clipboardData?.getData("text/plain") ?? ""));
  }, { capture: true });
}

interface Shell { ns: string; pod: string; container: string; ended: (why: string) => void; selected: (any: boolean) => void }

/** open starts a shell in an element. Its owner must call stop. */
async function open(at: HTMLElement, { ns, pod, container, ended, selected }: Shell): Promise<{ terminal: Terminal; stop: () => void }> {
  const { Terminal, FitAddon } = await load("xterm");
  const terminal = new Terminal({
    fontFamily: "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace", fontSize: 13, scrollback: 10_000, cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    theme: { background: "#10171a", foreground: "#dfe7e4", cursor: "#5cc7b2", selectionBackground: "#2f4a4a" }, screenReaderMode: true,
    // A program's link must be one that a person would open.
    linkHandler: { activate: (_, text) => { if (/^https?:\/\//.test(text)) window.open(text, "_blank", "noopener,noreferrer"); }, allowNonHttpProtocols: false },
  });
  // No program gets at the clipboard (OSC 52).
  terminal.parser.registerOscHandler(52, () => true);
  const fit = new FitAddon();
  terminal.loadAddon(fit);
  const inner = document.createElement("div"); // goes with its listeners when the shell does
  at.replaceChildren(inner);
  terminal.open(inner);
  clipboard(inner, terminal);
  terminal.onSelectionChange(() => selected(terminal.hasSelection()));
  fit.fit();
  const query = new URLSearchParams({ container, stdin: "true", stdout: "true", tty: "true" });
  for (const word of shell) query.append("command", word);
  const socket = new WebSocket(`wss://${location.host}/api/k8s${pathOf(core("pods"), ns, pod)}/exec?${query}`, ["v5.channel.k8s.io"]);
  socket.binaryType = "arraybuffer";
  connect(socket, terminal, ended);
  const resized = new ResizeObserver(() => fit.fit());
  resized.observe(at);
  return { terminal, stop: () => { resized.disconnect(); socket.close(); terminal.dispose(); selected(false); } };
}

function connect(socket: WebSocket, terminal: Terminal, ended: (why: string) => void) {
  const encoder = new TextEncoder();
  const send = (channel: Channel, data: Uint8Array) => {
    if (socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(data.length + 1);
    message[0] = channel;
    message.set(data, 1);
    socket.send(message);
  };
  const size = () => send(Channel.Resize, encoder.encode(JSON.stringify({ Width: terminal.cols, Height: terminal.rows })));
  let why = "", began = false;
  socket.onopen = () => { began = true; size(); terminal.focus(); };
  socket.onmessage = (event) => {
    const data = new Uint8Array(event.data as ArrayBuffer);
    switch (data[0]) {
      case Channel.Stdout: case Channel.Stderr: terminal.write(data.subarray(1)); break;
      case Channel.Error: {
        const status = JSON.parse(new TextDecoder().decode(data.subarray(1)));
        why = status.status === "Success" ? "The shell has ended." : status.message ?? "The shell has failed.";
      }
    }
  };
  socket.onclose = () => {
    why ||= began ? "The connection broke off, and the shell with it. What ran in it got SIGHUP." : "No shell: the connection was refused or broke off. The container may have no sh.";
    ended(why);
    terminal.options.disableStdin = true;
  };
  terminal.onData((text) => send(Channel.Stdin, encoder.encode(text)));
  terminal.onBinary((text) => send(Channel.Stdin, Uint8Array.from(text, (c) => c.charCodeAt(0))));
  terminal.onResize(size);
}
