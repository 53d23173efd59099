import { render } from "preact";
import "@xterm/xterm/css/xterm.css";
import "uplot/dist/uPlot.min.css";
import "./style.css";
import { App } from "./app";
import { toast } from "./ui";

// xterm and CodeMirror make style elements. The policy of this page allows those that have its nonce.
const nonce = document.querySelector<HTMLScriptElement>("script[nonce]")?.nonce ?? "";
const create = document.createElement.bind(document);
document.createElement = ((name: string, options?: ElementCreationOptions) => {
  const element = create(name, options);
  if (name.toLowerCase() === "style") element.nonce = nonce;
  return element;
}) as typeof document.createElement;

// What nobody has caught is told all the same.
addEventListener("unhandledrejection", (e) => toast(e.reason?.message ?? String(e.reason), true));

render(<App />, document.getElementById("app")!);
