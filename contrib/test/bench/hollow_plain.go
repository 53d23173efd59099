package main

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// makeNodes makes nodes as kubelets do, which go on to renew their leases.
func (h *hollow) makeNodes(ctx context.Context) error {
	return parallel(ctx, h.nodes, func(ctx context.Context, i int) error {
		node := plainNode(plainName(i))
		_, err := h.kube.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
		h.kubelets.start(node.Name)
		return err
	})
}

func plainName(i int) string { return "plain-" + strconv.Itoa(i) }

func plainNode(name string) *corev1.Node {
	list := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100000Mi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{
			Capacity: list, Allocatable: list,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Hollow"}},
		},
	}
}
