#include "addon/convert.h"

#include "base/checksum.h"

namespace walship::addon {

namespace {

std::string text(const Napi::Object& from, const char* key) { return from.Get(key).ToString().Utf8Value(); }
uint32_t number(const Napi::Object& from, const char* key) { return from.Get(key).ToNumber().Uint32Value(); }
uint64_t big(const Napi::Object& from, const char* key) { return toU64(from.Get(key)); }
bool flag(const Napi::Object& from, const char* key) { return from.Get(key).ToBoolean().Value(); }

template <class T>
T oneOf(const Napi::Object& from, const char* key, std::initializer_list<std::pair<const char*, T>> names) {
  const std::string name = text(from, key);
  for (const auto& [known, value] : names) {
    if (name == known) return value;
  }
  WALSHIP_ASSERT(false && "validated in TypeScript");
  return names.begin()->second;
}

Napi::Object railOf(Napi::Env env, const Rail& rail) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("transport", rail.transport);
  out.Set("device", rail.device);
  out.Set("local", rail.local);
  out.Set("remote", rail.remote);
  out.Set("mtuBytes", rail.mtuBytes);
  return out;
}

double plain(uint64_t value) { return static_cast<double>(value); }

}  // namespace

Napi::Error toJs(Napi::Env env, const Error& error) {
  Napi::Error out = Napi::Error::New(env, error.message);
  out.Set("code", Napi::String::New(env, error.code));
  if (!error.file.empty()) out.Set("file", Napi::String::New(env, error.file));
  if (error.offset >= 0) out.Set("offset", Napi::Number::New(env, static_cast<double>(error.offset)));
  return out;
}

Napi::Value throwJs(Napi::Env env, const Error& error) {
  toJs(env, error).ThrowAsJavaScriptException();
  return env.Undefined();
}

CommitRule commitRuleFrom(const Napi::Object& from) {
  CommitRule rule;
  rule.level = oneOf<CommitLevel>(from, "level",
                                  {{"async", CommitLevel::async},
                                   {"received", CommitLevel::received},
                                   {"flushed", CommitLevel::flushed},
                                   {"applied", CommitLevel::applied}});
  rule.choice = oneOf<CommitChoice>(from, "choice", {{"any", CommitChoice::any}, {"first", CommitChoice::first}});
  rule.count = number(from, "count");
  rule.ownDisk = flag(from, "ownDisk");
  const auto nodes = from.Get("nodes").As<Napi::Array>();
  for (uint32_t i = 0; i < nodes.Length(); ++i) {
    rule.nodeKeys.push_back(keyOf(nodes.Get(i).ToString().Utf8Value()));
  }
  return rule;
}

std::optional<ConnectTarget> targetFrom(const Napi::Value& from) {
  if (!from.IsObject()) return std::nullopt;
  const auto object = from.As<Napi::Object>();
  return ConnectTarget{{text(object, "host"), static_cast<uint16_t>(number(object, "port"))},
                       text(object, "node"),
                       text(object, "source"),
                       object.Get("transports").IsNumber() ? static_cast<uint8_t>(number(object, "transports")) : uint8_t{0},
                       object.Get("device").IsString() ? text(object, "device") : std::string()};
}

std::vector<std::string> textsFrom(const Napi::Value& from) {
  std::vector<std::string> texts;
  const auto list = from.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) texts.push_back(list.Get(i).ToString().Utf8Value());
  return texts;
}

EngineSettings settingsFrom(const Napi::Object& from) {
  EngineSettings settings;
  settings.nodeId = text(from, "nodeId");
  settings.cluster = text(from, "cluster");
  settings.secret = text(from, "secret");

  settings.log.dir = text(from, "dir");
  settings.log.geometry = {number(from, "pageBytes"), number(from, "segmentPages"), keyOf(settings.cluster)};
  settings.log.startLsn = big(from, "startLsn");
  settings.log.retainBytes = big(from, "retainBytes");
  settings.log.retainBytesMax = big(from, "retainBytesMax");
  settings.log.spareSegments = number(from, "spareSegments");
  settings.log.zeroFill = flag(from, "zeroFill");
  settings.sync.mode = oneOf<SyncMode>(
      from, "syncMode", {{"every-batch", SyncMode::everyBatch}, {"interval", SyncMode::interval}, {"never", SyncMode::never}});
  settings.sync.intervalMs = number(from, "syncIntervalMs");

  settings.arenaSlots = number(from, "arenaSlots");
  settings.hugePages = flag(from, "hugePages");
  settings.frameBytesMax = number(from, "frameBytesMax");

  const auto listen = from.Get("listen").As<Napi::Array>();
  for (uint32_t i = 0; i < listen.Length(); ++i) {
    const auto address = listen.Get(i).As<Napi::Object>();
    settings.listen.push_back({text(address, "host"), static_cast<uint16_t>(number(address, "port"))});
  }
  const auto ends = from.Get("railEnds").As<Napi::Array>();
  for (uint32_t i = 0; i < ends.Length(); ++i) {
    const auto end = ends.Get(i).As<Napi::Object>();
    settings.railEnds.push_back({text(end, "host"), static_cast<uint16_t>(number(end, "port")), text(end, "device"),
                                 number(end, "speedMbps"), number(end, "mtuBytes"),
                                 static_cast<int16_t>(end.Get("numaNode").ToNumber().Int32Value())});
  }
  settings.transports = static_cast<uint8_t>(number(from, "transports"));
  const auto verbs = from.Get("verbs").As<Napi::Object>();
  settings.verbs.device = text(verbs, "device");
  settings.verbs.port = verbs.Get("port").ToNumber().Int32Value();
  settings.verbs.gidIndex = verbs.Get("gidIndex").ToNumber().Int32Value();
  settings.verbs.addresses = textsFrom(verbs.Get("addresses"));
  settings.verbs.pathMtuBytes = number(verbs, "pathMtuBytes");
  settings.verbs.retryCount = verbs.Get("retryCount").ToNumber().Int32Value();
  settings.verbs.ackTimeoutExponent = verbs.Get("ackTimeoutExponent").ToNumber().Int32Value();
  settings.setupTimeoutMs = number(from, "setupTimeoutMs");
  settings.reconnectMsMin = number(from, "reconnectMsMin");
  settings.reconnectMsMax = number(from, "reconnectMsMax");
  settings.session.heartbeatMs = number(from, "heartbeatMs");
  settings.session.linkTimeoutMs = number(from, "linkTimeoutMs");
  settings.session.grantPages = number(from, "grantPages");
  settings.session.readAheadPages = number(from, "readAheadPages");
  settings.session.rangeBytesMax = number(from, "rangeBytesMax");
  settings.session.probeMs = number(from, "probeMs");
  settings.session.railSilenceMs = number(from, "railSilenceMs");

  settings.commitRule = commitRuleFrom(from.Get("commitRule").As<Napi::Object>());
  settings.appliedByHand = flag(from, "appliedByHand");
  settings.stallMs = number(from, "stallMs");
  settings.ruleMs = number(from, "ruleMs");
  settings.completion = oneOf<CompletionMode>(from, "completion",
                                              {{"busy", CompletionMode::busy},
                                               {"event", CompletionMode::event},
                                               {"adaptive", CompletionMode::adaptive}});
  settings.spinUs = number(from, "spinUs");
  settings.wakeWindowUs = number(from, "wakeWindowUs");
  return settings;
}

Napi::Array toJs(Napi::Env env, const std::vector<RailEnd>& ends) {
  Napi::Array out = Napi::Array::New(env);
  for (const RailEnd& end : ends) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("host", end.host);
    entry.Set("port", end.port);
    entry.Set("device", end.device);
    entry.Set("speedMbps", end.speedMbps);
    entry.Set("mtuBytes", end.mtuBytes);
    entry.Set("numaNode", static_cast<int>(end.numaNode));
    out.Set(out.Length(), entry);
  }
  return out;
}

Napi::Object railsOf(Napi::Env env, const StatusSnapshot& snapshot) {
  Napi::Object out = Napi::Object::New(env);
  Napi::Array rails = Napi::Array::New(env);
  for (const RailStatus& rail : snapshot.rails) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("name", rail.name);
    entry.Set("carries", rail.carries);
    entry.Set("spare", rail.spare);
    if (rail.roundTripNs != 0) entry.Set("roundTripUs", plain(rail.roundTripNs) / 1000);
    entry.Set("heardMsAgo", plain(rail.heardMsAgo));
    entry.Set("retransmits", plain(rail.retransmits));
    entry.Set("failures", plain(rail.failures));
    if (!rail.problem.message.empty()) entry.Set("problem", rail.problem.message);
    rails.Set(rails.Length(), entry);
  }
  out.Set("rails", rails);
  out.Set("railsNode", snapshot.railsNode);
  out.Set("railEnds", toJs(env, snapshot.railEnds));
  return out;
}

Napi::Object toJs(Napi::Env env, const StatusSnapshot& snapshot) {
  Napi::Object out = railsOf(env, snapshot);
  Napi::Array links = Napi::Array::New(env);
  for (const LinkStatus& link : snapshot.links) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("node", link.node);
    entry.Set("direction", link.direction);
    entry.Set("streaming", link.streaming);
    entry.Set("rail", railOf(env, link.rail));
    entry.Set("shippedBytes", plain(link.counters.shippedBytes));
    entry.Set("shippedRanges", plain(link.counters.shippedRanges));
    entry.Set("landedBytes", plain(link.counters.landedBytes));
    entry.Set("messagesSent", plain(link.counters.messagesSent));
    entry.Set("messagesReceived", plain(link.counters.messagesReceived));
    entry.Set("wireBytesSent", plain(link.counters.wireBytesSent));
    entry.Set("doorbells", plain(link.counters.doorbells));
    entry.Set("roundTripP50Us", plain(link.roundTripP50Ns) / 1000);
    entry.Set("roundTripP99Us", plain(link.roundTripP99Ns) / 1000);
    links.Set(links.Length(), entry);
  }
  out.Set("links", links);
  Napi::Array nodes = Napi::Array::New(env);
  for (const NodeStatus& node : snapshot.nodes) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("node", node.node);
    entry.Set("parent", node.parent);
    entry.Set("epoch", toJs(env, node.epoch));
    entry.Set("received", toJs(env, node.positions.received));
    entry.Set("flushed", toJs(env, node.positions.flushed));
    entry.Set("applied", toJs(env, node.positions.applied));
    entry.Set("lagBytes", plain(node.lagBytes));
    if (node.lagMs != kNotKnown) entry.Set("lagMs", plain(node.lagMs));
    if (node.appliedLagMs != kNotKnown) entry.Set("appliedLagMs", plain(node.appliedLagMs));
    entry.Set("heardMsAgo", plain(node.heardMsAgo));
    entry.Set("stalled", node.stalled);
    entry.Set("rail", railOf(env, node.rail));
    nodes.Set(nodes.Length(), entry);
  }
  out.Set("nodes", nodes);
  Napi::Array history = Napi::Array::New(env);
  for (const EpochStart& start : snapshot.history) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("epoch", toJs(env, start.epoch));
    entry.Set("firstLsn", toJs(env, start.firstLsn));
    history.Set(history.Length(), entry);
  }
  out.Set("history", history);
  out.Set("upstreamTailLsn", toJs(env, snapshot.upstreamTailLsn));
  out.Set("upstreamHeardMsAgo", plain(snapshot.upstreamHeardMsAgo));
  out.Set("ruleFailing", snapshot.ruleFailing);
  out.Set("storageProblem", snapshot.storageProblem);
  return out;
}

Napi::Object toJs(Napi::Env env, const EngineEvent& event) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("type", event.type);
  out.Set("node", event.node);
  out.Set("code", event.code);
  out.Set("message", event.message);
  out.Set("lsn", toJs(env, event.lsn));
  return out;
}

Napi::Object toJs(Napi::Env env, const ReadChunk& chunk) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("lsn", toJs(env, chunk.lsn));
  out.Set("bytes", Napi::Buffer<uint8_t>::Copy(env, reinterpret_cast<const uint8_t*>(chunk.bytes.data()), chunk.bytes.size()));
  out.Set("continues", chunk.continues);
  return out;
}

Napi::Object toJs(Napi::Env env, const RegisteredReader& reader) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", reader.name);
  out.Set("lsn", toJs(env, reader.lsn));
  out.Set("lastSeenMs", plain(reader.lastSeenWallUs) / 1000);
  return out;
}

Napi::Object toJs(Napi::Env env, const VerbsCapabilities& capabilities) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("state", nameOf(capabilities.state));
  out.Set("detail", capabilities.detail);
  Napi::Array devices = Napi::Array::New(env);
  for (const VerbsDevice& device : capabilities.devices) {
    Napi::Object deviceOut = Napi::Object::New(env);
    deviceOut.Set("name", device.name);
    deviceOut.Set("problem", device.problem);
    Napi::Array ports = Napi::Array::New(env);
    for (const VerbsPort& port : device.ports) {
      Napi::Object portOut = Napi::Object::New(env);
      portOut.Set("port", port.port);
      portOut.Set("state", port.state);
      portOut.Set("linkLayer", port.linkLayer);
      portOut.Set("speed", port.speed);
      portOut.Set("mtuBytes", port.activeMtuBytes);
      Napi::Array gids = Napi::Array::New(env);
      for (const VerbsGid& gid : port.gids) {
        Napi::Object gidOut = Napi::Object::New(env);
        gidOut.Set("index", gid.index);
        gidOut.Set("address", gid.address);
        gidOut.Set("type", gid.type);
        gidOut.Set("netdev", gid.netdev);
        gids.Set(gids.Length(), gidOut);
      }
      portOut.Set("gids", gids);
      ports.Set(ports.Length(), portOut);
    }
    deviceOut.Set("ports", ports);
    devices.Set(devices.Length(), deviceOut);
  }
  out.Set("devices", devices);
  return out;
}

Napi::Object summaryOf(Napi::Env env, const Histogram& histogram) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("count", plain(histogram.total()));
  out.Set("p50Us", plain(histogram.quantile(0.5)) / 1000);
  out.Set("p90Us", plain(histogram.quantile(0.9)) / 1000);
  out.Set("p99Us", plain(histogram.quantile(0.99)) / 1000);
  out.Set("p999Us", plain(histogram.quantile(0.999)) / 1000);
  out.Set("maxUs", plain(histogram.quantile(1)) / 1000);
  return out;
}

}  // namespace walship::addon
