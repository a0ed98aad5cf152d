# The units as plain data, in the words of NixOS's systemd.services: the one source of systemd/*.service and of module.nix.
#
# bin stands in front of the programs' names ("" lets systemd find them), lib in front of systemd's own.
{
  bin ? "",
  lib ? "/usr/lib/systemd/",
}:
let
  # What all of them can do without. Of the rest of systemd.exec(5), User=, RootDirectory= and PrivateUsers= are
  # left out everywhere: names and mounts in the host, and links in a namespace that the host's root owns, want its root.
  common = {
    Type = "oneshot";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    ProtectClock = true;
    ProtectHostname = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM"; # a message from the program, not a core dump
    UMask = "0077";
  };

  # And what works from the host on a link in a namespace
  outside = common // {
    # Setting up a link in another namespace takes these two. Root can read what root owns; a key of another user's
    # gets here by LoadCredential=.
    CapabilityBoundingSet = "CAP_NET_ADMIN CAP_SYS_ADMIN";
    # Names are looked up by these: DNS, nscd and systemd-resolved, and the list of the host's addresses.
    RestrictAddressFamilies = "AF_INET AF_INET6 AF_NETLINK AF_UNIX";
    RestrictNamespaces = "net"; # that one it enters
    SystemCallFilter = [
      "@system-service"
      "~@resources"
      "~@privileged" # setns(2) is not among them
    ];

    ProtectSystem = "strict";
    ProtectHome = "read-only"; # not hidden: keys are kept in /root too
    PrivateDevices = true;
    PrivateIPC = true;
    PrivateTmp = true;
    ProtectControlGroups = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true; # the kernel loads wireguard.ko itself
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    # Left out: ProcSubset=pid hides whether IPv6 is off and who has a lock; PrivateNetwork= and IPAddressDeny= would
    # take away the host's network, by which names are looked up and the tunnel's packets travel.
  };

  # The tunnel of the instance, in the namespace of the same name
  tunnel = instance: name: {
    description = "WireGuard tunnel ${if name == "%I" then "%i" else name}";
    bindsTo = [ "netns@${instance}.service" ];
    wants = [
      "network-online.target"
      "wgns-refresh.timer"
    ];
    # Not after nss-lookup.target: wg-up itself waits for names, and a confined name server, which is ordered before that
    # target, would be in an ordering cycle with its own tunnel.
    after = [
      "netns@${instance}.service"
      "network-online.target"
    ];
    wantedBy = [ "multi-user.target" ];
    unitConfig.StartLimitIntervalSec = 0; # it keeps trying as long as it is wanted
    serviceConfig = outside // {
      RemainAfterExit = true;
      # A name server that is late at boot is waited for; a wrong name fails, and is tried again as all else.
      Environment = "WG_UP_OPTIONS=--resolve-timeout=30";
      ExecStart = "${bin}wg-up $WG_UP_OPTIONS ${name}";
      ExecReload = "${bin}wg-up $WG_UP_OPTIONS ${name}";
      ExecStopPost = "${bin}wg-down ${name}"; # also after a start that failed or was killed

      # Usage, permission and configuration do not mend themselves. RestartMode= is the normal one: "direct" would hold up
      # the boot for as long as the tunnel fails.
      Restart = "on-failure";
      RestartPreventExitStatus = "2 77 78";
      RestartSec = 2;
      RestartSteps = 6;
      RestartMaxDelaySec = 60;
      TimeoutStartSec = 180; # a lock is waited for 60 s, a name server that does not answer some 30 s for each name

      ConfigurationDirectory = "netns"; # it writes resolv.conf and nsswitch.conf in /etc/netns/NAME, and nothing else
    };
  };
in
rec {
  # What a service gets that is to run in the namespace `name` and nowhere else: where it cannot be joined, systemd does
  # not start it. `unit` is the tunnel's; since that wants the service, it comes up with it after a first start that failed.
  # What it is that way it proves before it starts; `check` has options of wgns check.
  confined =
    {
      unit,
      name,
      check ? "",
    }:
    {
      bindsTo = [ unit ];
      after = [ unit ];
      wantedBy = [ unit ];
      serviceConfig = {
        NetworkNamespacePath = "/run/netns/${name}";
        # The sockets of whoever answers names for the host (nscd, systemd-resolved, D-Bus) are in /run. The unit's own
        # directories and credentials systemd brings back itself.
        TemporaryFileSystem = "/run";
        BindReadOnlyPaths = [
          "/etc/netns/${name}/nsswitch.conf:/etc/nsswitch.conf"
          "/etc/netns/${name}/resolv.conf:/etc/resolv.conf"
          "/run/netns/${name}" # to be compared by the check
          "-/run/current-system"
          "-/run/systemd/journal"
          "-/run/systemd/notify"
        ];
        ExecStartPre = "${bin}wgns check ${check}${name}";
      };
    };

  # The same for a socket unit, which otherwise listens in the host. The ordinary dependencies would have it up before
  # any service, the tunnel's among them.
  confinedSocket =
    { unit, name, ... }:
    {
      bindsTo = [ unit ];
      after = [
        "sysinit.target"
        unit
      ];
      before = [ "shutdown.target" ];
      conflicts = [ "shutdown.target" ];
      wantedBy = [ unit ];
      unitConfig.DefaultDependencies = false;
      socketConfig.NetworkNamespacePath = "/run/netns/${name}";
    };

  # A port of the services in the namespace `name`, reached at addresses of the host without a link between the two:
  # systemd listens in the host, and systemd-socket-proxyd(8) connects in the namespace.
  published =
    {
      unit,
      name,
      listen,
      port,
    }:
    {
      socket = builtins.removeAttrs (confinedSocket { inherit unit name; }) [ "socketConfig" ] // {
        description = "Port ${toString port} in the network namespace ${name}";
        socketConfig.ListenStream = listen;
      };
      service = {
        description = "Port ${toString port} in the network namespace ${name}";
        bindsTo = [ unit ];
        after = [ unit ];
        # Not like `confined`: it looks no names up, and goes on when the tunnel's link is gone.
        serviceConfig = common // {
          Type = "notify";
          ExecStart = "${lib}systemd-socket-proxyd 127.0.0.1:${toString port}";
          NetworkNamespacePath = "/run/netns/${name}";
          TemporaryFileSystem = "/run";
          BindReadOnlyPaths = "/run/systemd/notify";
          DynamicUser = true;
          CapabilityBoundingSet = "";
          PrivateDevices = true;
          ProtectHome = true;
          RestrictAddressFamilies = "AF_INET AF_INET6 AF_UNIX";
          RestrictNamespaces = true;
          SystemCallFilter = "@system-service";
        };
      };
    };

  # One timer for all tunnels
  timers.wgns-refresh = {
    description = "Look after tunnels whose peers do not answer";
    timerConfig = {
      OnActiveSec = 60;
      OnUnitInactiveSec = 60;
      AccuracySec = 10;
    };
  };

  services = {
    wgns-refresh = {
      description = "Look up the endpoints of peers that do not answer";
      after = [ "nss-lookup.target" ];
      serviceConfig = outside // {
        ExecStart = "${bin}wgns refresh";
        LogLevelMax = "notice"; # what it has changed, not that it has run
        SuccessExitStatus = 75; # a name that does not resolve is looked up again in a minute
        TimeoutStartSec = 120;
      };
    };
    "netns@" = {
      description = "Network namespace %i";
      before = [ "network.target" ];
      serviceConfig = common // {
        RemainAfterExit = true;
        ExecStart = "${bin}netns-up %I";
        ExecStop = "${bin}netns-down %I";
        ExecStopPost = "${bin}netns-down %I"; # also after a start that failed, which ExecStop= is not
        TimeoutStartSec = 90; # a lock is waited for 60 s
        PrivateNetwork = true; # the namespace that gets the name

        # The name is a mount that all others are to see. Each of PrivateTmp=, PrivateDevices=, PrivateIPC=, ProtectSystem=,
        # ProtectHome=, ProtectProc=, ProtectControlGroups=, ProtectKernelLogs=, ProtectKernelModules=,
        # ProtectKernelTunables=, ReadWritePaths= and BindPaths= gives the unit mounts of its own, and PrivateNetwork=
        # does so too since systemd 254 (issue 28686).
        PrivateMounts = false;

        # mount(2). Without CAP_SYS_PTRACE netns-down names only root's of the processes that it leaves inside.
        CapabilityBoundingSet = "CAP_SYS_ADMIN";
        IPAddressDeny = "any";
        RestrictAddressFamilies = "AF_NETLINK"; # whether a link but lo is up
        RestrictNamespaces = true; # systemd makes the one that is wanted
        SystemCallFilter = [
          "@system-service"
          "@mount"
          "~@resources"
          "~@privileged"
        ];
      };
    };
    "wg@" = tunnel "%i" "%I";
    # The article's name for the tunnel wg; an alias of the instance wg@wg.service is refused by systemd
    wg = tunnel "wg" "wg" // {
      conflicts = [ "wg@wg.service" ];
    };
  };
}
