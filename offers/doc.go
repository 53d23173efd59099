// Package offers keeps the resource offers of Mesos from the moment they arrive until they end, and accounts for every
// end: an offer that is forgotten starves the cluster, because Mesos gives its resources to nobody else meanwhile
// (https://mesos.apache.org/documentation/latest/app-framework-development-guide/#offers).
//
// It is pure: time comes in as a value, nothing here blocks, logs or does I/O, and one goroutine owns each storage. It
// knows offers and their resources only; which pod takes which offer is the scheduler's business.
//
// Start reading at OfferStorage; Resources holds the arithmetic of what an offer contains.
package offers
