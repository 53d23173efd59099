import { Kinds } from "./kinds";

export default () => <Kinds title="Extensions" note="What others have added to the API." path="/extensions" kinds={[
  ["customresourcedefinitions.apiextensions.k8s.io", "Custom resources"], ["apiservices.apiregistration.k8s.io", "API services"], ["validatingadmissionpolicies.admissionregistration.k8s.io", "Policies"],
  ["validatingwebhookconfigurations.admissionregistration.k8s.io", "Validating webhooks"], ["mutatingwebhookconfigurations.admissionregistration.k8s.io", "Mutating webhooks"],
]} />;
