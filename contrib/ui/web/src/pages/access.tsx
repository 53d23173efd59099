import { Kinds } from "./kinds";

export default () => <Kinds title="Access" note="Who may do what." path="/access" kinds={[
  ["rolebindings.rbac.authorization.k8s.io", "RoleBindings"], ["clusterrolebindings.rbac.authorization.k8s.io", "ClusterRoleBindings"], ["roles.rbac.authorization.k8s.io", "Roles"],
  ["clusterroles.rbac.authorization.k8s.io", "ClusterRoles"], ["serviceaccounts.", "Service accounts"], ["certificatesigningrequests.certificates.k8s.io", "Certificate requests"],
]} />;
