// Makes an RDMA link over an authenticated, ordered control connection.
#pragma once

#include <memory>

#include "base/fd.h"
#include "fabric/link.h"
#include "fabric/verbs/device.h"

namespace walship {

// Both ends call this at the same time; it blocks until the link is up or `deadlineNs` (monotonicNs) has
// come. Before it returns a packet of the full path MTU has gone both ways, so a fabric that does not carry
// packets fails here. If one end fails the other learns it at once. The link keeps `control`: when it ends,
// the peer has gone. Errors: WALSHIP_ERR_RDMA_UNAVAILABLE (this end or the peer cannot, or the fabric does
// not reach it), WALSHIP_ERR_LINK_PROTOCOL, WALSHIP_ERR_LINK_CLOSED, WALSHIP_ERR_TIMEOUT.
Result<std::unique_ptr<Link>> connectVerbs(std::shared_ptr<Device> device, Fd control, uint64_t deadlineNs);

}  // namespace walship
