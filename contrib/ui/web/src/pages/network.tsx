import { Kinds } from "./kinds";

export default () => <Kinds title="Network" note="How pods are reached, and by whom." path="/network" kinds={[
  ["services.", "Services"], ["endpointslices.discovery.k8s.io", "Endpoints"], ["ingresses.networking.k8s.io", "Ingresses"], ["networkpolicies.networking.k8s.io", "Policies"],
  ["gateways.gateway.networking.k8s.io", "Gateways"], ["httproutes.gateway.networking.k8s.io", "Routes"],
]} />;
