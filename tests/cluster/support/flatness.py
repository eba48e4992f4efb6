"""Do processes stay as large as they were?"""
from support.cluster import is_alive, open_descriptors, resident_bytes

# What an allocator may hold on to. The answers that a router keeps for repeated requests are counted apart.
GROWTH_ALLOWED = 48 * 1024 * 1024


def replay_cache_bytes(cluster):
    """What the router keeps for clients that repeat a request: up to 64 MiB, for thirty seconds (faults.md W12)."""
    return cluster.metric("moe_replay_cache_bytes")


def sizes(cluster):
    """name -> (pid, resident bytes without the replay cache, open descriptors) of every living process"""
    cached = {"router-0": replay_cache_bytes(cluster)}
    return {p["name"]: (p["pid"], resident_bytes(p["pid"]) - cached.get(p["name"], 0), open_descriptors(p["pid"]))
            for p in cluster.context()["processes"] if is_alive(p["pid"])}


def assert_flat(before, after):
    """Same process: memory and descriptors must not have grown beyond a bound."""
    for name, (pid, resident, descriptors) in after.items():
        old = before.get(name)
        if not old or old[0] != pid:
            continue
        print(f"\n{name}: {old[1] / 2**20:.0f} -> {resident / 2**20:.0f} MiB, {old[2]} -> {descriptors} descriptors", end="")
        assert resident <= old[1] + GROWTH_ALLOWED, f"{name} grew from {old[1] / 2**20:.0f} to {resident / 2**20:.0f} MiB"
        assert descriptors <= old[2] + 16, f"{name} has {descriptors} descriptors, had {old[2]}"
