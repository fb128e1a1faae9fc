// What a snapshot means: states in words, jobs on nodes, what is old.

import { isKnown } from './format.js';

export const isWaiting = (job) => job.state === 'pending';
export const isRunning = (job) =>
  ['running', 'completing', 'suspended', 'stopped', 'signaling'].includes(job.state);
export const hasEnded = (job) => !isWaiting(job) && !isRunning(job) && job.state !== 'configuring';

/** Sign, tone and word of how a job stands or ended. The sign is not only a colour. */
export function jobEnd(job) {
  if (isWaiting(job)) return { sign: '◌', tone: 'quiet', word: 'waiting' };
  if (!hasEnded(job)) return { sign: '▶', tone: 'good', word: job.state };
  if (job.state === 'completed') return { sign: '✓', tone: 'good', word: 'completed' };
  if (job.state === 'cancelled') return { sign: '⊘', tone: 'quiet', word: 'cancelled' };
  if (job.state === 'timeout' || job.state === 'deadline') return { sign: '◷', tone: 'warning', word: job.state };
  return { sign: '✕', tone: 'bad', word: job.state };
}

/** The jobs that hold CPUs of each node: Map of node name to [{job, cpus}]. */
export function jobsOnNodes(snapshot) {
  const found = new Map();
  for (const job of snapshot.slurm?.jobs || []) {
    if (!isRunning(job) && job.state !== 'configuring') continue;
    for (const name of job.nodes) {
      if (!found.has(name)) found.set(name, []);
      found.get(name).push({ job, cpus: (job.cpus || 0) / (job.nodes.length || 1) });
    }
  }
  return found;
}

export const isSilent = (source) => !source || source.trouble !== null || source.at === null;
export const source = (snapshot, name) => snapshot.sources.find((one) => one.name === name) || null;

/** Why what is shown of a source is old, in one line; null while it answers. */
export function trouble(snapshot, name) {
  const one = source(snapshot, name);
  return one ? one.trouble : null;
}

/** Sign, tone and words of a node's state, from libvirt and SLURM. */
export function nodeState(node, snapshot) {
  const vm = node.vm;
  if (!snapshot.is_up) return { sign: '○', tone: 'quiet', word: 'host down' };
  if (!vm) return { sign: '?', tone: 'quiet', word: 'not known' };
  const isOld = trouble(snapshot, 'libvirt') !== null;
  if (isOld) return { sign: '?', tone: 'warning', word: `${vm.state}, not sure` };
  if (vm.state === 'paused') return { sign: '‖', tone: 'warning', word: 'paused' };
  if (vm.state === 'crashed') return { sign: '✕', tone: 'bad', word: 'crashed' };
  if (vm.state !== 'running') return { sign: '○', tone: 'quiet', word: vm.state };
  if (!node.slurm) return { sign: '●', tone: 'good', word: 'running' };
  return slurmState(node.slurm);
}

function slurmState(slurm) {
  const states = slurm.states;
  const word = states.join('+').replaceAll('_', ' ');
  if (states.includes('not_responding')) return { sign: '✕', tone: 'bad', word };
  if (['down', 'error', 'unknown'].includes(states[0]) || states.includes('fail')) return { sign: '✕', tone: 'bad', word };
  if (states.includes('drain')) return { sign: '⊘', tone: 'warning', word };
  if (states.includes('maint') || states[0] === 'future') return { sign: '◇', tone: 'quiet', word };
  if (states[0] === 'allocated') return { sign: '●', tone: 'good', word };
  if (states[0] === 'mixed') return { sign: '◐', tone: 'good', word };
  if (states[0] === 'idle') return { sign: '○', tone: 'good', word };
  return { sign: '◇', tone: 'quiet', word };
}

export const isOn = (node) => node.vm?.state === 'running';

/** Share of what a node was given, in percent; null if not known. */
export const cpuPercent = (node) =>
  isKnown(node.vm?.cpus_busy) && node.vm.vcpus ? (100 * node.vm.cpus_busy) / node.vm.vcpus : null;

export const memoryTotal = (node) => node.vm?.guest_memory_mib ?? node.vm?.memory_mib ?? null;

export const memoryPercent = (node) =>
  isKnown(node.vm?.guest_memory_used_mib) && memoryTotal(node)
    ? (100 * node.vm.guest_memory_used_mib) / memoryTotal(node) : null;

export const hostMemoryUsed = (host) =>
  isKnown(host?.memory_available_mib) ? host.memory_mib - host.memory_available_mib : null;

/** GPUs of a node as SLURM counts them: {count, allotted}. */
export function gpuCount(node) {
  const counts = node.slurm?.gpus || [];
  return {
    count: counts.reduce((sum, one) => sum + one.count, 0),
    allotted: counts.reduce((sum, one) => sum + one.allotted, 0),
  };
}

/** CPU (until its use was seen last) and memory used of what was asked, in percent; null if not known. */
export function efficiency(job, at) {
  const runs = isKnown(job.started_at) && !isWaiting(job)
    ? (job.ended_at ?? at) - job.started_at : null;
  const seen = runs !== null && isKnown(job.use_seen_at) ? Math.min(runs, job.use_seen_at - job.started_at) : runs;
  const asked = seen > 0 && job.cpus ? seen * job.cpus : null;
  return {
    runs,
    cpu: asked && isKnown(job.cpu_used_s) ? (100 * job.cpu_used_s) / asked : null,
    memory: job.memory_mib && isKnown(job.memory_peak_mib) ? (100 * job.memory_peak_mib) / job.memory_mib : null,
  };
}

const WAITS = {
  Resources: 'the resources that it asks for are in use',
  Priority: 'jobs with a higher priority are before it',
  Dependency: 'it waits for another job',
  DependencyNeverSatisfied: 'the job that it waits for will never end as asked',
  BeginTime: 'its begin time has not come',
  JobHeldUser: 'its user holds it',
  JobHeldAdmin: 'an administrator holds it',
  PartitionDown: 'its partition is down',
  PartitionTimeLimit: 'it asks for more time than its partition gives',
  PartitionNodeLimit: 'it asks for more nodes than its partition gives',
  ReqNodeNotAvail: 'a node that it needs is not available',
  Licenses: 'a licence is in use',
  Reservation: 'its reservation has not begun',
  JobArrayTaskLimit: 'as many tasks of its array run as are allowed at once',
  NodeDown: 'a node that it needs is down',
};

/** SLURM's reason, with its meaning if we know it. */
export function reasonInWords(reason) {
  if (!reason || reason === 'None') return '';
  const word = reason.split(/[, (]/, 1)[0];
  if (WAITS[word]) return `${reason}: ${WAITS[word]}`;
  if (word.startsWith('QOS')) return `${reason}: a limit of its QOS is reached`;
  if (word.startsWith('Assoc')) return `${reason}: a limit of its account or user is reached`;
  return reason;
}
