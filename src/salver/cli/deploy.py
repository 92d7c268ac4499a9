"""`salver deploy`: make an endpoint serve a model."""

from pathlib import Path
from typing import Any

from salver.cli import deploy_options as given
from salver.cli.options import (
    ControlUrlOption,
    ForceOption,
    HomeOption,
    Output,
    OutputOption,
    admin_client,
)
from salver.cli.output import tell
from salver.client.admin import DeployOptions, deploy
from salver.client.rollouts import RolloutOptions


def command(
    model: given.ModelArgument,
    endpoint: given.EndpointOption = None,
    replicas: given.ReplicasOption = 1,
    validation: given.ValidationOption = given.Validation.OFF,
    timeout_s: given.TimeoutOption = 120.0,
    max_batch_size: given.MaxBatchSizeOption = None,
    max_queue: given.MaxQueueOption = None,
    max_batch_tokens: given.MaxBatchTokensOption = None,
    max_queue_delay_ms: given.MaxQueueDelayOption = 0.0,
    request_timeout_s: given.RequestTimeoutOption = None,
    priorities: given.PrioritiesOption = False,
    batching: given.BatchingOption = given.Batching.FIXED,
    objective_ms: given.ObjectiveOption = 0.0,
    max_padding: given.MaxPaddingOption = 0.1,
    cache: given.CacheOption = False,
    pin: given.PinOption = False,
    routing_key: given.RoutingKeyOption = None,
    routing: given.RoutingOption = None,
    rollout_steps: given.RolloutStepsOption = None,
    rollout_auto: given.RolloutAutoOption = False,
    force: ForceOption = False,
    min_replicas: given.MinReplicasOption = None,
    max_replicas: given.MaxReplicasOption = None,
    scale_on: given.ScaleOnOption = given.ScaleOn.CONCURRENCY,
    scale_target: given.ScaleTargetOption = None,
    scale_down_delay_s: given.ScaleDownDelayOption = None,
    hosting: given.HostingOption = given.Hosting.AUTO,
    instances: given.InstancesOption = 1,
    threads: given.ThreadsOption = 0,
    cpus: given.CpusOption = "",
    memory_limit: given.MemoryLimitOption = "",
    gpu: given.GpuOption = None,
    provider: given.ProviderOption = given.Provider.AUTO,
    idle: given.IdleOption = None,
    warm_up: given.WarmUpOption = True,
    approvals: given.ApprovalsOption = None,
    webhooks: given.WebhooksOption = None,
    home: HomeOption = None,
    control_url: ControlUrlOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Serve a version behind an endpoint; returns when it answers, or says why it does not.

    Example: salver deploy churn@champion --replicas 2
    """
    options = DeployOptions(
        endpoint=endpoint,
        replicas=replicas,
        validation=validation.value,
        timeout_s=timeout_s,
        max_batch_size=max_batch_size,
        max_queue=max_queue,
        request_timeout_s=request_timeout_s,
        max_batch_tokens=max_batch_tokens,
        max_queue_delay_ms=max_queue_delay_ms,
        priorities=priorities,
        batching=batching.value,
        objective_ms=objective_ms,
        max_padding=max_padding,
        cache=cache,
        pin=pin,
        routing=routing,
        routing_key=routing_key,
        rollout=_policy(rollout_steps, auto=rollout_auto),
        force=force,
        **given.scaling(min_replicas, max_replicas, scale_on, scale_target, scale_down_delay_s),
        hosting=hosting.value,
        instances=instances,
        threads=threads,
        cpus=cpus,
        memory_limit_bytes=given.size_bytes(memory_limit),
        gpu=gpu,
        provider=provider.value,
        idle_s=idle,
        warm_up=warm_up,
        approvals=approvals,
        webhooks=webhooks,
    )
    _tell(_carried_out(model, options, home, control_url), output)


def _carried_out(
    model: str, options: DeployOptions, home: Path | None, control_url: str | None
) -> dict[str, Any]:
    with admin_client(home, control_url) as client:
        return client.run(deploy(model, options))


def _tell(deployed: dict[str, Any], output: Output) -> None:
    tell(
        deployed,
        output,
        f"{deployed['name']} serves {deployed['model']}:{deployed['version']}: {deployed['url']}",
        f"next: salver predict {deployed['name']} rows.json",
    )


def _policy(steps: str | None, *, auto: bool) -> RolloutOptions | None:
    if steps is None:
        return None
    return RolloutOptions(steps=steps, auto=auto)
