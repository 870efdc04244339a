"""Train replicas that may fail and come back, with torchft; the marked lines are gradwire's.

torchft_lighthouse --bind 0.0.0.0:29510 --min_replicas 1 --join_timeout_ms 1000
TORCHFT_LIGHTHOUSE=http://ADDRESS:29510 python examples/torchft_replicas.py 0     # and, on other machines, 1, 2, ...
"""

import hashlib
import socket
import sys
from datetime import timedelta

import torch
from torch import nn
from torch.distributed import TCPStore
from torchft import Manager, ProcessGroupGloo

import gradwire


def main(replica: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    hook = gradwire.attach(model, "ef(topk(density=0.01))", group=gradwire.Members())  # gradwire: alone at first
    teacher = torch.randn(64, 10)
    group, host, ranks = ProcessGroupGloo(timedelta(seconds=20)), socket.gethostname(), None
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    place = {"rank": 0, "world_size": 1, "store_addr": host, "store_port": store.port, "max_retries": 9}
    parts = {"model": model, "optimizer": optimizer}  # a replica that comes back copies these
    manager = Manager(
        group,
        lambda saved: [part.load_state_dict(saved[name]) for name, part in parts.items()],
        lambda: {name: part.state_dict() for name, part in parts.items()},
        min_replica_size=1,
        use_async_quorum=False,  # a replica that comes back copies before the step, then takes part
        replica_id=f"replica_{replica}",
        **place,
    )
    while manager.current_step() < 60:
        manager.start_quorum()
        inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(100 * manager.current_step() + replica))
        optimizer.zero_grad()
        try:
            if group.parent is not ranks:  # gradwire: the ranks have changed
                hook.regroup(gradwire.Members(group, manager.participating_rank(), manager.num_participants()))
                ranks = group.parent
            nn.functional.cross_entropy(model(inputs), (inputs @ teacher).argmax(1)).backward()
        except Exception as error:  # a peer is gone, or no group could be made: vote against the step
            manager.report_error(error)
        if manager.should_commit():
            optimizer.step()
        else:
            hook.rollback()  # gradwire: undo this step
    digest = hashlib.sha256(torch.cat([param.detach().flatten() for param in model.parameters()]).numpy()).hexdigest()
    print(f"replica {replica}: {hook.step} steps, {hook.process.size} replicas at the end, model {digest[:12]}")
    manager.shutdown(wait=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
