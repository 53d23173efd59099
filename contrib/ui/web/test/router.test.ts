import { go, link, match, param, setParams, url } from "../src/router";
import { groupOf, listOf } from "../src/groups";
import { same, test } from "./check";

test("paths are matched part by part, and decoded", () => {
  same(match("/pods/:ns/:name", "/pods/shop/web-1"), { ns: "shop", name: "web-1" });
  same(match("/pods/:ns/:name", "/pods/shop"), null);
  same(match("/pods", "/pods/"), {});
  same(match("/nodes/:agent", "/nodes/a%2Fb"), { agent: "a/b" });
});

test("an address with a stray percent sign is no page", () => {
  same(match("/nodes/:agent", "/nodes/%E0%A4%A"), null);
});

test("what a list shows is in the address, and comes back by it", () => {
  go("/pods?ns=shop");
  setParams({ q: "web -old", sort: "-age" });
  same(location.search, "?ns=shop&q=web+-old&sort=-age");
  same([param("q"), param("sort"), param("none")], ["web -old", "-age", ""]);
  setParams({ q: "" });
  same(location.search, "?ns=shop&sort=-age");
});

test("typing into a filter adds nothing to the history, choosing a namespace does", () => {
  go("/pods");
  const before = history.length;
  setParams({ q: "a" });
  setParams({ q: "ab" });
  same(history.length, before);
  setParams({ ns: "shop" }, true);
  same(history.length, before + 1);
});

test("links keep the namespace and nothing else", () => {
  go("/pods?ns=shop&q=web&sort=age");
  same(link("/events"), "/events?ns=shop");
  same(link("/pods", { ns: "" }), "/pods");
  same(link("/pods", { ns: "other", q: "a b" }), "/pods?ns=other&q=a+b");
  go("/");
  same(url.value.pathname, "/");
});

test("a kind is listed on the page that has it as a tab, or on its own", () => {
  go("/?ns=shop");
  same(groupOf("services", "core"), "/network");
  same(groupOf("ingresses", "extensions"), undefined);
  same(listOf({ group: "core", version: "v1", plural: "services" }, { ns: "" }), "/network?kind=services");
  same(listOf({ group: "apps", version: "v1", plural: "deployments" }), "/resources/apps/v1/deployments?ns=shop");
});
