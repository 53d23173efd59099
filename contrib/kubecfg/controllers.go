package kubecfg

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/k8sm/k8sm/api/v1beta1"
)

const (
	// simpleService is the label by which a controller that was run, and its service, select pods.
	simpleService = "simpleService"
	// replacedWithin bounds the wait for the pods that replace those which rollingupdate deleted.
	replacedWithin = 300 * time.Second
	replacedPoll   = time.Second
)

// controllerVerbs work on replication controllers.
var controllerVerbs = map[string]verb{
	"run":           failing((*kubecfg).runController),
	"resize":        failing((*kubecfg).resizeController),
	"stop":          failing((*kubecfg).stopController),
	"rm":            failing((*kubecfg).removeController),
	"rollingupdate": failing((*kubecfg).rollingUpdate),
}

// failing makes a verb whose errors look as those of these verbs did.
func failing(do verb) verb {
	return func(k *kubecfg, ctx context.Context, args []string) error {
		return after("Error", do(k, ctx, args))
	}
}

func (k *kubecfg) runController(ctx context.Context, args []string) error {
	if len(args) != 4 {
		return sayf("usage: kubecfg [OPTIONS] run <image> <replicas> <controller>")
	}
	image, id := args[1], args[3]
	replicas, err := parseReplicas(args[2])
	if err != nil {
		return err
	}
	if wrong := validation.IsDNS1123Label(id); k.servicePort > 0 && len(wrong) > 0 {
		return fmt.Errorf("a service cannot have the name %s: %s", id, wrong[0])
	}
	if k.servicePort > maxPort {
		return fmt.Errorf("a service cannot have the port %d", k.servicePort)
	}
	ports, err := k.parsePorts(k.ports)
	if err != nil {
		return err
	}
	pair := map[string]string{simpleService: id}
	controller := v1beta1.ReplicationController{Meta: k.meta("ReplicationController", id)}
	controller.DesiredState.Replicas, controller.DesiredState.ReplicaSelector = replicas, pair
	controller.DesiredState.PodTemplate = v1beta1.PodTemplate{Labels: pair, DesiredState: v1beta1.PodState{Manifest: v1beta1.Manifest{
		Version: v1beta1.V1Beta2, Containers: []v1beta1.Container{{Name: strings.ToLower(id), Image: image, Ports: ports}},
	}}}
	if err := k.sendAndPrint(ctx, http.MethodPost, "replicationControllers", controller); err != nil || k.servicePort <= 0 {
		return err
	}
	return k.sendAndPrint(ctx, http.MethodPost, "services", v1beta1.Service{
		Meta: k.meta("Service", id), Port: int32(k.servicePort), Labels: pair, Selector: pair,
	})
}

func (k *kubecfg) meta(kind, id string) v1beta1.Meta {
	return v1beta1.Meta{Kind: kind, APIVersion: k.apiVersion, ID: id}
}

func parseReplicas(text string) (int32, error) {
	n, err := strconv.ParseInt(text, 10, 32)
	if err == nil && n < 0 {
		err = fmt.Errorf("%d is less than 0", n)
	}
	if err != nil {
		return 0, sayf("Error parsing replicas: %v", err)
	}
	return int32(n), nil
}

// parsePorts reads -p, such as "8080:80,443". It prints which port is no number, as the error does not say that.
func (k *kubecfg) parsePorts(spec string) (ports []v1beta1.Port, err error) {
	if spec == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(spec, ",") {
		host, container, both := strings.Cut(part, ":")
		if !both {
			host, container = "0", part
		}
		var port v1beta1.Port
		for _, p := range []struct {
			name, text string
			min        int
			to         *int32
		}{{"Host", host, 0, &port.HostPort}, {"Container", container, 1, &port.ContainerPort}} {
			n, err := strconv.Atoi(p.text)
			if err != nil {
				fmt.Fprintf(k.Errs, "%s port is not integer: %s %v\n", p.name, p.text, err)
				return nil, err
			}
			if n < p.min || n > maxPort {
				return nil, fmt.Errorf("%s port is not valid: %d", p.name, n)
			}
			*p.to = int32(n)
		}
		ports = append(ports, port)
	}
	return ports, nil
}

const maxPort = 1<<16 - 1

func (k *kubecfg) resizeController(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return sayf("usage: kubecfg [OPTIONS] resize <controller> <replicas>")
	}
	replicas, err := parseReplicas(args[2])
	if err != nil {
		return err
	}
	return k.setReplicas(ctx, args[1], replicas)
}

func (k *kubecfg) stopController(ctx context.Context, args []string) error {
	id, err := onlyID(args)
	if err != nil {
		return err
	}
	return k.setReplicas(ctx, id, 0)
}

func onlyID(args []string) (id string, err error) {
	if len(args) != 2 {
		return "", sayf("usage: kubecfg [OPTIONS] %s <controller>", args[0])
	}
	return args[1], nil
}

func (k *kubecfg) setReplicas(ctx context.Context, id string, replicas int32) error {
	controller, err := k.controller(ctx, id)
	if err != nil {
		return err
	}
	controller.DesiredState.Replicas = replicas
	return k.sendAndPrint(ctx, http.MethodPut, "replicationControllers/"+id, controller)
}

func (k *kubecfg) removeController(ctx context.Context, args []string) error {
	id, controller, err := k.onlyController(ctx, args)
	if err != nil {
		return err
	}
	if n := controller.DesiredState.Replicas; n != 0 {
		return fmt.Errorf("controller has non-zero replicas (%d), please stop it first", n)
	}
	_, err = k.client.do(ctx, request{method: http.MethodDelete, path: "replicationControllers/" + id})
	return err
}

// onlyController reads the replication controller that the only argument names.
func (k *kubecfg) onlyController(ctx context.Context, args []string) (id string, c v1beta1.ReplicationController, err error) {
	if id, err = onlyID(args); err == nil {
		c, err = k.controller(ctx, id)
	}
	return id, c, err
}

// controller reads a replication controller.
func (k *kubecfg) controller(ctx context.Context, id string) (c v1beta1.ReplicationController, err error) {
	answer, err := k.send(ctx, request{method: http.MethodGet, path: "replicationControllers/" + id})
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(answer, &c)
}

// sendAndPrint sends an object and prints the answer as YAML.
func (k *kubecfg) sendAndPrint(ctx context.Context, method, path string, object any) error {
	answer, err := k.sendObject(ctx, method, path, object)
	if err != nil {
		return err
	}
	return printYAML(k.Out, answer)
}

func (k *kubecfg) sendObject(ctx context.Context, method, path string, object any) ([]byte, error) {
	body, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	return k.send(ctx, request{method: method, path: path, body: body})
}

// rollingUpdate deletes the controller's pods, one each update interval, and waits until as many are there again.
func (k *kubecfg) rollingUpdate(ctx context.Context, args []string) error {
	id, controller, err := k.onlyController(ctx, args)
	if err != nil {
		return err
	}
	if k.image != "" {
		containers := controller.DesiredState.PodTemplate.DesiredState.Manifest.Containers
		if len(containers) == 0 {
			return fmt.Errorf("controller %s has no container whose image could change", id)
		}
		containers[0].Image = k.image
		if _, err := k.sendObject(ctx, http.MethodPut, "replicationControllers/"+id, controller); err != nil {
			return err
		}
	}
	selector := labels.SelectorFromSet(controller.DesiredState.ReplicaSelector).String()
	old, err := k.pods(ctx, selector)
	if err != nil {
		return err
	}
	for _, pod := range old {
		if _, err := k.send(ctx, request{method: http.MethodDelete, path: "pods/" + pod.ID}); err != nil {
			return err
		}
		if err := sleep(ctx, k.update); err != nil {
			return err
		}
	}
	return k.awaitPods(ctx, selector, len(old))
}

func (k *kubecfg) pods(ctx context.Context, selector string) ([]v1beta1.Pod, error) {
	answer, err := k.send(ctx, request{method: http.MethodGet, path: "pods", query: url.Values{"labels": {selector}}})
	if err != nil {
		return nil, err
	}
	var list v1beta1.PodList
	err = json.Unmarshal(answer, &list)
	return list.Items, err
}

// awaitPods waits until there are as many pods as expected.
func (k *kubecfg) awaitPods(ctx context.Context, selector string, expected int) error {
	for end := time.Now().Add(replacedWithin); expected > 0; {
		there, err := k.pods(ctx, selector)
		if err != nil || len(there) == expected {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("timed out waiting for the condition: there are %d pods, not %d", len(there), expected)
		}
		if err := sleep(ctx, replacedPoll); err != nil {
			return err
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
