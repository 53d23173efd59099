import { core, pageOf, pathOf } from "../src/api";
import { same, test } from "./check";

const deployments = { group: "apps", version: "v1", plural: "deployments" };

test("names cannot leave their place in a path", () => {
  same(pathOf(core("pods"), "../a", "b/c?d#e"), "/api/v1/namespaces/..%2Fa/pods/b%2Fc%3Fd%23e");
  same(pathOf(deployments, "shop"), "/apis/apps/v1/namespaces/shop/deployments");
  same(pathOf(core("nodes")), "/api/v1/nodes");
});

test("each kind has the page that knows most of it", () => {
  same(pageOf(core("pods"), "shop", "web"), "/pods/shop/web");
  same(pageOf(core("pods")), "/pods");
  same(pageOf(deployments, "shop", "web"), "/workloads/deployments/shop/web");
  same(pageOf(deployments), "/resources/apps/v1/deployments");
  same(pageOf(core("nodes"), "", "a"), "/resources/core/v1/nodes/-/a");
});
