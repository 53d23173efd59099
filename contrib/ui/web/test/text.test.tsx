import { render } from "preact";
import { ansi } from "../src/ansi";
import { same, test } from "./check";

const html = (line: string, find = "") => {
  const at = document.createElement("div");
  render(<>{ansi(line, find)}</>, at);
  return at;
};

test("a log's line is text, whatever it says", () => {
  const at = html('<img src=x onerror=alert(1)> <script>alert(2)</script> &amp;');
  same(at.textContent, '<img src=x onerror=alert(1)> <script>alert(2)</script> &amp;');
  same(at.querySelectorAll("img, script").length, 0);
  same(html("<b>find</b> me", "<b>").querySelector("mark")?.textContent, "<b>");
});

test("colours of terminals are drawn, and other sequences left out", () => {
  const at = html("\u001b[1;31mred\u001b[0m plain\u001b[2J\u001b[?25l\u001b]52;c;aGk=\u0007\u001b]8;;javascript:alert(1)\u001b\\link\u001b]8;;\u001b\\");
  same(at.textContent, "red plainlink");
  same(at.querySelector(".ansi-red.bold")?.textContent, "red");
  same(at.querySelectorAll("a").length, 0);
});

test("what was searched for is marked in any case", () => {
  same([...html("Error: an error", "error").querySelectorAll("mark")].map((m) => m.textContent), ["Error", "error"]);
});
