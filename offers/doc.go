// Package offers keeps the resource offers of Mesos from their arrival to their end, and accounts for every end. A forgotten offer
// starves the cluster, because Mesos offers its resources to no one else meanwhile
// (https://mesos.apache.org/documentation/latest/app-framework-development-guide/#offers).
//
// It is pure: time comes in as a value, nothing here blocks, logs or does I/O, and one goroutine owns each storage. It knows offers
// and their resources only; the scheduler decides which pod takes which offer.
//
// Start reading at OfferStorage; Resources holds the arithmetic of what an offer contains.
package offers
