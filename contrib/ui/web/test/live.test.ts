import { cutter, merged } from "../src/live";
import { same, test } from "./check";

interface Item { uid: string; name: string; is?: string }
const order = { uid: (i: Item) => i.uid, key: (i: Item) => i.name };
const items: Item[] = [{ uid: "1", name: "a" }, { uid: "2", name: "c" }, { uid: "3", name: "e" }];
const names = (list: Item[]) => list.map((i) => i.name + (i.is ?? "")).join(" ");

test("what comes is merged in order, and what is gone is left out", () => {
  same(names(merged(items, [{ uid: "9", name: "f" }, { uid: "4", name: "d" }, { uid: "5", name: "" }], [], order)), " a c d e f");
  same(names(merged(items, [{ uid: "2", name: "c", is: "!" }], ["3", "7"], order)), "a c!");
  same(names(merged([], [{ uid: "4", name: "d" }, { uid: "5", name: "b" }], [], order)), "b d");
});

test("one that was made again under its name takes the place of the one before", () => {
  same(names(merged(items, [{ uid: "8", name: "c", is: "!" }], ["2"], order)), "a c! e");
});

test("without changes the list is the same", () => {
  if (merged(items, [], [], order) !== items) throw new Error("it is another");
});

test("a text in pieces has the lines of the whole", () => {
  const text = cutter(), lines: string[] = [];
  for (const piece of ["a", "b\n", "", "c\nd\n\ne", "f", "g\nh"]) lines.push(...text.cut(piece));
  same(lines, ["ab", "c", "d", "", "efg"]);
  same(text.rest(), "h");
  same(text.rest(), "");
});
