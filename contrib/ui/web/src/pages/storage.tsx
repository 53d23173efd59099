import { Kinds } from "./kinds";

export default () => <Kinds title="Storage" note="Volumes that outlive pods." path="/storage" kinds={[
  ["persistentvolumeclaims.", "Claims"], ["persistentvolumes.", "Volumes"], ["storageclasses.storage.k8s.io", "Classes"], ["volumeattachments.storage.k8s.io", "Attachments"], ["csidrivers.storage.k8s.io", "Drivers"],
]} />;
