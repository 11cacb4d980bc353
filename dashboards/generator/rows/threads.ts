// Threads and locks, and what telemetry itself costs.
import { RowSpec, rate, ratio, select } from '../panels.js';

const kThird = { kind: 'series', width: 8, height: 10 } as const;

export const threads: RowSpec = {
  title: 'Threads and locks',
  collapsed: true,
  panels: [
    {
      ...kThird,
      title: 'Threads now and started',
      about: 'Threads with a cache now, and how many were started a second. Short-lived threads cost a cache each.',
      unit: 'short',
      queries: [
        { expr: `sum(${select('hakmem_threads')})`, legend: 'now' },
        { expr: `sum(${rate('hakmem_threads_started_total')})`, legend: 'started a second' },
      ],
    },
    {
      ...kThird,
      title: 'Thread cache bytes',
      about: 'Objects that wait in thread caches.',
      unit: 'bytes',
      queries: [{ expr: `sum by (instance) (${select('hakmem_thread_cache_bytes')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Remote frees',
      about: 'Objects freed by another thread than the one that owns their slab.',
      unit: 'ops',
      queries: [{ expr: `sum by (instance) (${rate('hakmem_remote_frees_total')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      title: 'Lock acquisitions',
      about: 'All on the slow path; the hot path takes no lock.',
      unit: 'ops',
      queries: [{ expr: `sum by (lock) (${rate('hakmem_lock_acquisitions_total')})`, legend: '{{lock}}' }],
    },
    {
      ...kThird,
      title: 'Share of acquisitions that waited',
      about: 'Contention by lock.',
      unit: 'percentunit',
      queries: [
        {
          expr: ratio(
            `sum by (lock) (${rate('hakmem_lock_waits_total')})`,
            `sum by (lock) (${rate('hakmem_lock_acquisitions_total')})`,
          ),
          legend: '{{lock}}',
        },
      ],
    },
    {
      ...kThird,
      title: 'Time waited for locks',
      about: 'Share of one CPU’s time, by lock.',
      unit: 'percentunit',
      queries: [{ expr: `sum by (lock) (${rate('hakmem_lock_wait_seconds_total')})`, legend: '{{lock}}' }],
    },
  ],
};

export const telemetry: RowSpec = {
  title: 'Telemetry and its own cost',
  collapsed: true,
  panels: [
    {
      kind: 'stat',
      title: 'Build',
      about: 'What is loaded.',
      unit: 'short',
      width: 8,
      height: 4,
      nameOnly: true,
      queries: [
        { expr: `max by (version, build) (${select('hakmem_build_info')})`, legend: '{{version}} {{build}}' },
      ],
    },
    {
      kind: 'stat',
      title: 'Age of the figures',
      about: 'Time since the figures were last measured, in the process where it is longest.',
      unit: 's',
      decimals: 1,
      width: 8,
      height: 4,
      queries: [{ expr: `time() - min(${select('hakmem_published_timestamp_seconds')})`, legend: 'age' }],
    },
    {
      kind: 'stat',
      title: 'Requests out of memory',
      about: 'Requests that failed lately. The program got NULL or std::bad_alloc.',
      unit: 'short',
      width: 8,
      height: 4,
      warn: [1, 10],
      queries: [
        { expr: `sum(increase(${select('hakmem_out_of_memory_total')}[$__rate_interval]))`, legend: 'out of memory' },
      ],
    },
    {
      ...kThird,
      width: 6,
      title: 'Samples',
      about: 'Sampled allocations a second.',
      unit: 'ops',
      queries: [{ expr: `sum by (instance) (${rate('hakmem_samples_total')})`, legend: '{{instance}}' }],
    },
    {
      ...kThird,
      width: 6,
      title: 'Memory errors',
      about: 'Overflows and uses after free that guarded samples found (HAKMEM_GUARD=1). The stderr of the program tells where.',
      unit: 'short',
      queries: [
        {
          expr: `sum by (kind) (increase(${select('hakmem_memory_errors_total')}[$__rate_interval]))`,
          legend: '{{kind}}',
        },
      ],
    },
    {
      ...kThird,
      width: 6,
      title: 'Time of a scrape',
      about: 'Mean time to answer a scrape; it is spent beside the program, not in it.',
      unit: 's',
      queries: [
        {
          expr: ratio(
            `sum by (instance) (${rate('hakmem_exporter_scrape_seconds_total')})`,
            `sum by (instance) (${rate('hakmem_exporter_scrapes_total')})`,
          ),
          legend: '{{instance}}',
        },
      ],
    },
    {
      ...kThird,
      width: 6,
      title: 'Memory of telemetry',
      about: 'What measuring costs: memory of the exporter and of the telemetry library.',
      unit: 'bytes',
      queries: [
        { expr: `sum(${select('hakmem_exporter_memory_bytes')})`, legend: 'exporter' },
        { expr: `sum(${select('hakmem_resident_bytes', 'part="telemetry"')})`, legend: 'telemetry, resident' },
      ],
    },
    {
      ...kThird,
      width: 24,
      height: 8,
      title: 'Stats pages of other processes',
      about: 'Pages beside the serving process’ own. Left out means that a process runs another version or died badly.',
      unit: 'short',
      queries: [
        { expr: `sum(${select('hakmem_exporter_pages')})`, legend: 'shown' },
        { expr: `sum(${rate('hakmem_exporter_pages_skipped_total')})`, legend: 'left out a second' },
      ],
    },
  ],
};
