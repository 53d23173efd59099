import { filtered, sorted, type TableColumn } from "../src/table";
import { same, test } from "./check";

interface Item { name: string; age: number; label?: string }
const items: Item[] = [{ name: "web-10", age: 3 }, { name: "web-9", age: 20, label: "tier=front" }, { name: "Cart-1", age: 1 }];
const columns: TableColumn<Item>[] = [
  { id: "name", title: "Name", text: (i) => i.name }, { id: "age", title: "Age", text: (i) => `${i.age}s`, order: (i) => i.age },
];
const names = (list: Item[]) => list.map((i) => i.name);

test("a filter finds items that have all its words, in any case", () => {
  same(names(filtered(items, columns, "WEB")), ["web-10", "web-9"]);
  same(names(filtered(items, columns, "web 20s")), ["web-9"]);
  same(names(filtered(items, columns, "  ")), names(items));
  same(names(filtered(items, columns, "web -10")), ["web-9"]);
  same(names(filtered(items, columns, "-")), names(items));
});

test("a filter finds labels, but no word across two columns", () => {
  same(names(filtered(items, columns, "tier=front", (i) => i.label ?? "")), ["web-9"]);
  same(names(filtered(items, columns, "web-93")), []);
  same(names(filtered(items, columns, "web-920s")), []);
});

test("numbers are sorted as numbers, in names too", () => {
  same(names(sorted(items, columns, "name")), ["Cart-1", "web-9", "web-10"]);
  same(names(sorted(items, columns, "age")), ["Cart-1", "web-10", "web-9"]);
  same(names(sorted(items, columns, "-age")), ["web-9", "web-10", "Cart-1"]);
  same(names(sorted(items, columns, "gone")), names(items));
});
