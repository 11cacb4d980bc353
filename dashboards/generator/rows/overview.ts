// What one looks at first: how much memory, what it consists of, how much of it is lost.
import { PanelSpec, RowSpec, rate, select, ratio } from '../panels.js';

const kStat = { kind: 'stat', width: 3, height: 5 } as const;

/** The strip of figures on top of the dashboard. */
export const strip: PanelSpec[] = [
  {
    ...kStat,
    title: 'Resident',
    about: 'Resident memory of the selected processes.',
    unit: 'bytes',
    queries: [{ expr: `sum(${select('hakmem_process_resident_bytes')})`, legend: 'resident' }],
  },
  {
    ...kStat,
    width: 2,
    title: 'Live',
    about: 'What the program holds, at allocated size. The distance to resident memory is what this dashboard explains.',
    unit: 'bytes',
    queries: [{ expr: `sum(${select('hakmem_live_bytes')})`, legend: 'live' }],
  },
  {
    ...kStat,
    width: 4,
    title: 'External fragmentation',
    about: 'Share of the heap that is resident and free, in the worst of the selected processes.',
    unit: 'percentunit',
    decimals: 1,
    warn: [0.25, 0.5],
    queries: [{ expr: `max(${select('hakmem_fragmentation_ratio', 'kind="external"')})`, legend: 'external' }],
  },
  {
    ...kStat,
    width: 4,
    title: 'Internal fragmentation',
    about: 'Share of the allocated bytes that nobody asked for, in the worst of the selected processes.',
    unit: 'percentunit',
    decimals: 1,
    warn: [0.15, 0.3],
    queries: [{ expr: `max(${select('hakmem_fragmentation_ratio', 'kind="internal"')})`, legend: 'internal' }],
  },
  {
    ...kStat,
    title: 'Purged',
    about: 'How fast memory goes back to the kernel.',
    unit: 'binBps',
    queries: [{ expr: `sum(${rate('hakmem_purged_bytes_total')})`, legend: 'purged' }],
  },
  {
    ...kStat,
    title: 'superslab_refill',
    about: 'Share of the CPU time that goes into new slabs, all steps together.',
    unit: 'percentunit',
    decimals: 2,
    warn: [0.05, 0.1],
    queries: [
      {
        expr: ratio(
          `sum(${rate('hakmem_superslab_refill_seconds_sum')})`,
          `sum(${rate('hakmem_process_cpu_seconds_total')})`,
        ),
        legend: 'superslab_refill',
      },
    ],
  },
  {
    ...kStat,
    title: 'Unexplained',
    about: 'Resident memory that no part explains; more than a few percent means that the account is wrong.',
    unit: 'bytes',
    queries: [{ expr: `sum(${select('hakmem_resident_unexplained_bytes')})`, legend: 'unexplained' }],
  },
  {
    ...kStat,
    width: 2,
    title: 'Threads',
    about: 'Threads that allocate.',
    unit: 'none',
    queries: [{ expr: `sum(${select('hakmem_threads')})`, legend: 'threads' }],
  },
];

// Green is in use, red and orange are lost, blue can be given back, grey is not ours.
const kPartColors = {
  live: 'green',
  internal_fragmentation: 'orange',
  slab_free: 'red',
  empty_slab: 'purple',
  thread_cache: 'yellow',
  retained: 'blue',
  metadata: 'super-light-purple',
  telemetry: 'light-blue',
  outside: '#8e8e8e',
  process: 'white',
  hakmem: 'light-green',
};

export const memory: RowSpec = {
  title: 'Where the memory is',
  collapsed: false,
  panels: [
    {
      kind: 'series',
      title: 'Resident memory by part',
      about:
        'Every resident byte once. live is in use; internal_fragmentation, slab_free and empty_slab are lost to fragmentation; ' +
        'thread_cache and retained wait for reuse; outside is program text, stacks and mappings that are not hakmem’s.',
      unit: 'bytes',
      width: 12,
      height: 14,
      stacked: true,
      overlay: ['process', 'hakmem'],
      colors: kPartColors,
      queries: [
        { expr: `sum by (part) (${select('hakmem_resident_bytes')})`, legend: '{{part}}' },
        { expr: `sum(${select('hakmem_process_resident_bytes')})`, legend: 'process' },
        { expr: `sum(${select('hakmem_heap_resident_bytes')})`, legend: 'hakmem' },
      ],
    },
    {
      kind: 'series',
      title: 'Fragmentation',
      about: 'The bytes lost, whatever their share: a ratio of a small heap is not worth an engineer’s day.',
      unit: 'bytes',
      width: 6,
      height: 14,
      queries: [{ expr: `sum by (kind) (${select('hakmem_fragmentation_bytes')})`, legend: '{{kind}}' }],
    },
    {
      kind: 'series',
      title: 'Fragmentation ratio',
      about: 'The worst process of each instance.',
      unit: 'percentunit',
      width: 6,
      height: 14,
      queries: [
        {
          expr: `max by (kind, instance) (${select('hakmem_fragmentation_ratio')})`,
          legend: '{{kind}} {{instance}}',
        },
      ],
    },
    {
      kind: 'series',
      title: 'Unexplained share of resident memory',
      about: 'Signed. It stays near zero as long as the account is right.',
      unit: 'percentunit',
      width: 12,
      height: 8,
      softMax: 0.05,
      queries: [
        {
          expr: ratio(
            `sum by (instance) (${select('hakmem_resident_unexplained_bytes')})`,
            `sum by (instance) (${select('hakmem_process_resident_bytes')})`,
          ),
          legend: '{{instance}}',
        },
      ],
    },
    {
      kind: 'series',
      title: 'Huge pages, lazily freed, swapped',
      about:
        'What smaps_rollup tells apart, read seldom. Huge pages keep memory resident that was touched in part; lazily freed ' +
        'memory goes as soon as the kernel needs it; swapped memory is not resident and slow to come back.',
      unit: 'bytes',
      width: 12,
      height: 8,
      queries: [{ expr: `sum by (state) (${select('hakmem_process_memory_bytes')})`, legend: '{{state}}' }],
    },
    {
      kind: 'series',
      title: 'Distance to the cgroup’s limit',
      about:
        'The cgroup that is nearest to its limit, in the worst process of each instance; without a limit only its use is ' +
        'shown. At a distance of zero the kernel kills.',
      unit: 'bytes',
      width: 12,
      height: 8,
      queries: [
        { expr: `min by (instance) (${select('hakmem_cgroup_memory_bytes', 'kind="distance"')})`, legend: 'distance {{instance}}' },
        { expr: `max by (instance) (${select('hakmem_cgroup_memory_bytes', 'kind="current"')})`, legend: 'use {{instance}}' },
      ],
    },
    {
      kind: 'series',
      title: 'Findings',
      about: 'Documented conditions that hold, by name; docs/diagnosis.md says of each what it means and what to change.',
      unit: 'short',
      width: 12,
      height: 8,
      stacked: true,
      queries: [{ expr: `max by (finding) (${select('hakmem_diagnosis')})`, legend: '{{finding}}' }],
    },
    {
      kind: 'series',
      title: 'Live bytes and what holds them',
      about: 'Live bytes against the slabs that carry them: when live falls and slabs do not, few objects pin many slabs.',
      unit: 'bytes',
      width: 12,
      height: 8,
      queries: [
        { expr: `sum(${select('hakmem_live_bytes')})`, legend: 'live' },
        { expr: `sum(${select('hakmem_slab_bytes')})`, legend: 'slabs' },
        { expr: `sum(${select('hakmem_superslab_bytes', 'kind="committed"')})`, legend: 'committed' },
      ],
    },
  ],
};
