package run

import (
	log "github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"

	"github.com/k8sm/k8sm/scheduler"
)

// logEvent logs events from Mesos about tasks, offers and agents. Use kubectl for pods and nodes.
func logEvent(ev scheduler.Event) {
	switch ev := ev.(type) {
	case scheduler.TaskUpdated:
		log.WithFields(log.Fields{"task": ev.Status.Task, "agent": ev.Status.Agent}).Debug(ev.Status.String())
	case scheduler.Offered:
		for _, o := range ev.Offers {
			log.WithFields(log.Fields{"offer": o.ID, "agent": o.Agent}).Debugf("offered %s", o.Resources)
		}
	case scheduler.InverseOffered:
		for _, o := range ev.Offers {
			log.WithFields(log.Fields{"offer": o.ID, "agent": o.Agent}).Debugf("inverse offer for the maintenance %s", o.Unavailable)
		}
	case scheduler.OfferRescinded:
		log.WithField("offer", ev.Offer).Debug("rescinded")
	case scheduler.AgentLost:
		log.WithField("agent", ev.Agent).Warn("the agent is gone")
	case scheduler.ExecutorExited:
		log.WithField("agent", ev.Agent).Warn("the executor has ended")
	}
}

// logAction logs changes at level info, and other actions at debug.
func logAction(act scheduler.Action) {
	switch act := act.(type) {
	case scheduler.Launch:
		for _, t := range act.Tasks {
			log.WithFields(log.Fields{"pod": t.Name(), "task": t.ID, "agent": act.Agent}).
				Info("launching task")
		}
	case scheduler.Kill:
		log.WithFields(log.Fields{"task": act.Task, "agent": act.Agent}).Info("killing task")
	case scheduler.ShutdownExecutor:
		log.WithField("agent", act.Agent).Info("asking the executor to end")
	case scheduler.Nominate:
		log.WithFields(log.Fields{"pod": act.Pod.Namespace + "/" + act.Pod.Name, "node": act.Node}).Info(act.Message)
	case scheduler.Preempt:
		log.WithFields(log.Fields{"pod": act.Victim.Namespace + "/" + act.Victim.Name, "node": act.Node}).
			Infof("preempting the pod for %s/%s", act.By.Namespace, act.By.Name)
	case scheduler.CreateNode:
		log.WithFields(log.Fields{"node": act.Node.Name, "agent": act.Node.Spec.ProviderID}).Info("creating node")
	case scheduler.DeleteNode:
		log.WithField("node", act.Name).Info("deleting node")
	case scheduler.MarkNode:
		log.WithField("node", act.Node.Name).Info(act.String())
	case scheduler.RecordNodeEvent:
		level := log.InfoLevel
		if act.Type == v1.EventTypeWarning {
			level = log.WarnLevel
		}
		log.WithField("node", act.Node.Name).Log(level, act.Reason+": "+act.Message)
	case scheduler.TaintNode:
		log.WithField("node", act.Node.Name).Info(act.String())
	case scheduler.Evict:
		log.WithField("pod", act.Pod.Namespace+"/"+act.Pod.Name).Info(act.String())
	case scheduler.AnswerInverse:
		level := log.DebugLevel
		if act.News {
			level = log.InfoLevel
		}
		log.WithFields(log.Fields{"offer": act.Offer, "agent": act.Agent}).Log(level, act.String())
	default:
		log.Debug(act.String())
	}
}
